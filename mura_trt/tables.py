"""Tables of views and failures, written and read some rows at a time."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mura_trt.archives.listing import Listing
from mura_trt.files import replacing
from mura_trt.rows import Failure
from mura_trt.runtimes import runtime_of

if TYPE_CHECKING:
    import pandas as pd

    Parts = Iterator[pd.DataFrame]

FORMATS = ("csv", "parquet")
ROWS_AT_ONCE = 8192  # of a table in memory: more take more of it and are written a tenth faster


def write_table(path: Path, parts: Parts) -> int:
    """Writes a table, whole or not at all, in the format of its suffix; returns how many rows there are."""
    write = _write_csv if path.suffix == ".csv" else _write_parquet
    with replacing(path) as temporary:
        return write(temporary, parts)


def view_tables(
    listing: Listing,
    logit: NDArray[np.float32],
    probability: NDArray[np.float32],
    color: NDArray[np.bool_],
    runtime: NDArray[np.uint8] | None = None,
) -> Iterator[pd.DataFrame]:
    """The rows of ``views.csv``, some at a time.

    Parameters
    ----------
    logit, probability
        float32 (n,), NaN for a view that failed and gets no row.
    color
        bool (n,): whether the view's file stores color.
    runtime
        uint8 (n,): what computed it, in a run that mixes runtimes; else there is no such column.
    """
    import pandas as pd

    for start in range(0, len(listing), ROWS_AT_ONCE):
        stop = min(start + ROWS_AT_ONCE, len(listing))
        table = pd.DataFrame(
            {
                "view": listing.view_names(listing.keys(start, stop)),
                "study": listing.study_names(listing.study_of[start:stop]),
                "logit": logit[start:stop],
                "probability": probability[start:stop],
                "color": color[start:stop].astype(np.int64),
            }
        )
        if runtime is not None:
            table["runtime"] = [runtime_of(code) for code in runtime[start:stop].tolist()]
        yield table[table["probability"].notna()]


def failure_table(listing: Listing, failures: list[Failure]) -> pd.DataFrame:
    """What became of views without pixels or score: view, study, stage, code, message."""
    import pandas as pd

    numbers = np.array([failure.view for failure in failures], np.int64)
    return pd.DataFrame(
        {
            "view": listing.view_names(listing.views.take(numbers).to_pylist()),
            "study": listing.study_names(listing.study_of[numbers]),
            "stage": [failure.stage for failure in failures],
            "code": [failure.code for failure in failures],
            "message": [failure.message for failure in failures],
        },
        dtype="str",
    )


def vanished_table(listing: Listing, tables: Sequence[Path]) -> pd.DataFrame:
    """View and study of the rows of earlier tables whose views ``listing`` has not, in order of their names."""
    import pandas as pd

    there = np.concatenate([np.empty(0, np.uint64), *map(_name_hashes, listing.view_names_in_parts(ROWS_AT_ONCE))])
    there.sort()
    gone = [pd.DataFrame({"view": [], "study": []}, dtype=str)]
    for path in tables:
        for names in read_names(path):
            gone.append(names[~np.isin(_name_hashes(names["view"].tolist()), there)])
    return pd.concat(gone).sort_values("view")


def read_names(path: Path) -> Iterator[pd.DataFrame]:
    """The columns ``view`` and ``study`` of a table in the format of its suffix, some rows at a time, as text."""
    import pandas as pd
    import pyarrow.parquet as pq

    columns = ["view", "study"]
    if path.suffix == ".csv":
        yield from pd.read_csv(path, usecols=columns, dtype=str, keep_default_na=False, chunksize=ROWS_AT_ONCE)
    else:
        with pq.ParquetFile(path) as file:
            yield from (part.to_pandas() for part in file.iter_batches(ROWS_AT_ONCE, columns=columns))


def _name_hashes(names: list[str]) -> NDArray[np.uint64]:
    return np.array(
        [int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest()) for name in names], np.uint64
    )


def _write_csv(path: Path, parts: Parts) -> int:
    rows = 0
    with path.open("w", newline="", encoding="utf-8") as file:
        for number, part in enumerate(parts):
            part.to_csv(file, index=False, header=number == 0, lineterminator="\n")
            rows += len(part)
    return rows


def _write_parquet(path: Path, parts: Parts) -> int:
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows, writer = 0, None
    for part in parts:
        table = pa.Table.from_pandas(part, preserve_index=False)
        writer = writer or pq.ParquetWriter(path, table.schema)
        writer.write_table(table.cast(writer.schema))
        rows += len(part)
    assert writer is not None  # every table has a first part, be it empty
    writer.close()
    return rows
