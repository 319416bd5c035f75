"""What a committed shard's file holds: a line that tells what the other one is, and the rows."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from pathlib import Path

import numpy as np

from mura_trt.rows import Failure, Rows, scores_of

SHARD_FILE = re.compile(r"\d{12}\.json|\.\d{12}\.json\.part")


def encoded(rows: Rows) -> bytes:
    """A shard's file, with row counts and SHA-256."""
    content = {
        "views": rows.views.tolist(),
        # A float32 goes through JSON's double and back without loss.
        "logit": rows.scores["logit"].tolist(),
        "probability": rows.scores["probability"].tolist(),
        "colored": rows.views[rows.scores["color"]].tolist(),
        "runtimes": rows.scores["runtime"].tolist() if rows.scores["runtime"].any() else [],
        "maps": base64.b64encode(rows.scores["map"].tobytes()).decode(),
        "failures": [[failure.view, failure.stage, failure.code, failure.message] for failure in rows.failures],
    }
    body = json.dumps(content).encode()
    record = {
        "start": rows.start,
        "stop": rows.stop,
        "scored": len(rows.views),
        "failed": len(rows.failures),
        "sha256": hashlib.sha256(body).hexdigest(),
    }
    return json.dumps(record).encode() + b"\n" + body + b"\n"


def shard_name(rows: Rows) -> str:
    """The file of a shard, which sorts by its first view."""
    return f"{rows.start:012d}.json"


def read_shard(path: Path) -> Rows:
    """A shard's rows; raises ValueError where the file is not what was committed."""
    try:
        head, body = path.read_bytes().splitlines()
        record, content = json.loads(head), json.loads(body)
        if hashlib.sha256(body).hexdigest() != record["sha256"]:
            raise ValueError("wrong SHA-256")
        views = np.array(content["views"], np.int64)
        maps = np.frombuffer(base64.b64decode(content["maps"]), "<f4").reshape(len(views), -1) if len(views) else None
        color = np.isin(views, content["colored"])
        scores = scores_of(content["logit"], content["probability"], color, maps)
        scores["runtime"] = content.get("runtimes") or 0
        failures = [Failure(*failure) for failure in content["failures"]]
        rows = Rows(record["start"], record["stop"], views, scores, failures)
    except (KeyError, TypeError) as error:
        raise ValueError(f"{type(error).__name__} {error}") from error
    if path.name != shard_name(rows):
        raise ValueError(f"it holds the shard of view {rows.start}")
    if (record["scored"], record["failed"]) != (len(rows.views), len(rows.failures)):
        raise ValueError("another number of rows than committed")
    return rows
