"""What the peers' scripts share: which files they score, when their clock runs, and the table they end with."""

from __future__ import annotations

import argparse
import csv
import json
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

SIZE = (320, 320)  # pixels, as in the MURA paper
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
IMAGES = (".png", ".jpg")


def arguments(description: str | None) -> argparse.ArgumentParser:
    """A parser of the folder of X-rays and the CSV file for its studies."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="folder of X-rays, a folder below it for each study")
    parser.add_argument("-o", "--out", type=Path, required=True, help="CSV file for the studies' probabilities")
    return parser


def views_of(folder: Path) -> list[Path]:
    """The folder's images in order."""
    return sorted(path for path in folder.rglob("*") if path.suffix in IMAGES)


def study_of(view: Path, folder: Path) -> str:
    """A view's study: the path of its folder below the archive's."""
    return view.parent.relative_to(folder).as_posix()


def study_means(folder: Path, views: Sequence[Path], probabilities: Sequence[float]) -> dict[str, float]:
    """Each study's mean over its views."""
    of_study: dict[str, list[float]] = defaultdict(list)
    for view, probability in zip(views, probabilities, strict=True):
        of_study[study_of(view, folder)].append(float(probability))
    return {study: sum(found) / len(found) for study, found in of_study.items()}


class Clock:
    """Seconds from the first batch handed in to the last result."""

    def __init__(self) -> None:
        self.began = time.perf_counter()

    def finish(self, asked: Any, views: Sequence[Path], probabilities: Sequence[float]) -> None:
        """Stops; writes the studies, and prints what was measured as one line of JSON."""
        seconds = time.perf_counter() - self.began
        studies = study_means(asked.folder, views, probabilities)
        with asked.out.open("w", newline="") as file:
            table = csv.writer(file)
            table.writerow(["study", "probability"])
            table.writerows((study, f"{probability:.9g}") for study, probability in studies.items())
        sys.stdout.write(json.dumps({"views": len(views), "seconds": seconds}) + "\n")
