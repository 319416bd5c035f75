"""The MURA challenge's contract: a list of image paths in; out, for each study, a line with its folder and 0 or 1.

Neither file has a header. The contract has no word for a study that could not be scored, and where one is left out
nobody notices: such a study gets 1, so that somebody looks at it, and is told of beside the file.
"""

from __future__ import annotations

import csv
import os
import secrets
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from mura_trt.archives.keys import display, plain
from mura_trt.errors import EnvironmentProblem, UsageError
from mura_trt.files import check_target, write_atomically
from mura_trt.progress import Progress
from mura_trt.score import score
from mura_trt.score_options import ScoreOptions
from mura_trt.studies import DEFAULT_THRESHOLD

_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class PredictOptions:
    """What to predict and how; the fields are the arguments and options of ``mura-trt predict``."""

    paths: Path
    """Without a header, one image path a line, relative to the working directory."""
    out: Path
    engine: Path
    runtime: str = "auto"
    threshold: float = DEFAULT_THRESHOLD
    """A study is abnormal when its mean probability is strictly above."""
    batch: int | None = None
    """Views in a batch; None takes what suits the runtime."""
    allow_unproven: bool = False
    """As for ``score``."""


@dataclass(frozen=True)
class Prediction:
    """A study's line, and what it rests on."""

    study: bytes
    """Its images' folder as the list spells it first, with a slash behind."""
    abnormal: int
    """1 or 0."""
    views: int
    failures: list[str]
    """For each view without a score, which it is and why."""

    @property
    def line(self) -> bytes:
        """As the challenge wants it."""
        return b"%s,%d\n" % (self.study, self.abnormal)

    @property
    def told(self) -> str:
        """What the line does not say, of a study with failures."""
        scored = self.views - len(self.failures)
        line = "its line is by these" if scored else "its line says 1, so that somebody looks at it"
        return (
            f"{display(self.study)}: {scored} of {self.views} views could be scored, and {line};"
            f" {'; '.join(self.failures)}"
        )


def predict(options: PredictOptions, report: Callable[[Progress], None] = lambda _: None) -> list[Prediction]:
    """Scores the listed images and writes the predictions, all of them or none.

    Parameters
    ----------
    options
        What to predict and how.
    report
        Told of every commit, and about once a second.

    Returns
    -------
    list
        The studies in order of their first image, as written.

    Raises
    ------
    UsageError
        The list or the options cannot be used, or nothing can be written at ``out``.
    BundleError, EnvironmentProblem
        As ``score``.
    """
    check_target(options.out, [options.paths], "the predictions")
    studies, images = _read_paths(options.paths)
    # Of so many images, those alone that have its name; it is none of the others but by a link.
    same = {image for image, _ in images if os.path.split(image)[1] == os.fsencode(options.out.name)}
    check_target(options.out, [Path(os.fsdecode(image)) for image in same], "the predictions")
    with tempfile.TemporaryDirectory(prefix="mura-trt-") as name:
        folder = Path(name)
        # A list of ours, for it says which study each image is of; by number, as their names are the user's own.
        listed = folder / "images.csv"
        listed.write_bytes(b"view,study\n" + b"".join(b"%s,%d\n" % image for image in images))
        # What tells of views goes with the folder, so that nothing is hidden in it and no salt is made for good.
        salt = folder / "uid-salt"
        salt.touch(0o600)
        salt.write_text(secrets.token_hex(32), encoding="ascii")
        scoring = ScoreOptions(
            archive=listed,
            engine=options.engine,
            out=folder / "out",
            runtime=options.runtime,
            batch=options.batch,
            threshold=options.threshold,
            root=Path.cwd(),
            keep_paths=True,
            uid_salt_file=salt,
            allow_unproven=options.allow_unproven,
            passing=True,
        )
        try:
            score(scoring, report)
        except EnvironmentProblem as error:  # which may speak of going on
            raise type(error)(
                f"{error}; {options.out} was not written, and predict begins anew when it is run again"
            ) from error
        predictions = list(_predictions(folder / "out", studies))
    write_atomically(options.out.resolve(), b"".join(prediction.line for prediction in predictions))
    return predictions


def _read_paths(paths: Path) -> tuple[list[bytes], list[tuple[bytes, int]]]:
    """The studies as they are to be written, in order, and each line's image with its study's number.

    Lines may end in CR LF and have blanks around them; blank lines are passed over. One study may be spelled in several
    ways (``a//b``, ``./a/b``), and is one.
    """
    try:
        lines = paths.read_bytes().removeprefix(_BOM).splitlines()
    except OSError as error:
        raise UsageError(
            f"{paths}: cannot be read ({error.strerror}); give a list of image paths, one a line"
        ) from error
    numbers: dict[bytes, int] = {}
    studies: list[bytes] = []
    images: list[tuple[bytes, int]] = []
    for at, line in enumerate(lines, start=1):
        image = line.strip()
        if not image:
            continue
        study, name = os.path.split(image)
        if b"," in image or b'"' in image:
            raise UsageError(
                f"{paths}, line {at}: a comma or a quotation mark; the list has one image path a line and nothing"
                " else, and a study's line has room for one comma: rename a folder that holds one"
            )
        if not study or not name:
            raise UsageError(
                f"{paths}, line {at}: no image in a study's folder, as in MURA-v1.1/valid/XR_WRIST/patient11185/"
                "study1/image1.png; the list has one such path a line, and no header"
            )
        number = numbers.setdefault(plain(study), len(studies))
        if number == len(studies):
            # What lies before the image's name, byte for byte: os.path.split takes doubled slashes off.
            studies.append(image[: len(image) - len(name)])
        images.append((image, number))
    if not images:
        raise UsageError(f"{paths}: the list names no image")
    if not any(os.path.lexists(image) for image, _ in images):
        raise UsageError(
            f"{paths}: none of its {len(images)} images is there; its paths start from the working directory,"
            f" {Path.cwd()}: run predict where they lead somewhere"
        )
    return studies, images


def _predictions(out: Path, studies: list[bytes]) -> Iterator[Prediction]:
    """By the tables of a run whose studies' names are numbers."""
    failures: list[list[str]] = [[] for _ in studies]
    with (out / "failures.csv").open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            name = row["view"].rsplit("/", 1)[-1]
            failures[int(row["study"])].append(f"{name}: {row['code']}, {row['message']}")
    with (out / "studies.csv").open(newline="", encoding="utf-8") as file:
        rows = {int(row["study"]): row for row in csv.DictReader(file)}
    for number, study in enumerate(studies):
        row = rows[number]
        # Without any score there is no decision.
        yield Prediction(study, int(row["abnormal"] or 1), int(row["views"]), failures[number])
