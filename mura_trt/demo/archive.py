"""Lays synthetic views out as an archive with MURA's folders, file names and label lists."""

from __future__ import annotations

import csv
import io
import os
import tempfile
import zlib
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import chain, islice
from multiprocessing import get_context
from pathlib import Path
from typing import TextIO

import numpy as np
from numpy.typing import NDArray

from mura_trt.cores import usable_cores
from mura_trt.demo.anatomy import BODY_PARTS, FIELDS
from mura_trt.demo.lesions import LESION_KINDS
from mura_trt.demo.xray import Box, Drawn, Person, draw_view
from mura_trt.errors import UsageError
from mura_trt.processes import work_for

# MURA's studies by body part (Rajpurkar et al. 2018, table 1), in the order of BODY_PARTS.
MURA_STUDIES = np.array([1912, 2110, 1010, 2185, 727, 3015, 3697])
ABNORMAL = 0.4
# In the order of LESION_KINDS. Of 100 abnormal studies that MURA's authors looked through, 53 had fractures and 48
# hardware (Rajpurkar et al. 2018, section 2); a fracture here is displaced in two of five.
LESION_SHARES = (0.31, 0.21, 0.48)
# Of studies with 1, 2, ... 13 views.
VIEW_SHARES = (0.12, 0.32, 0.42, 0.09, 0.025, 0.01, 0.005, 0.003, 0.002, 0.002, 0.001, 0.001, 0.001)
RGB_SHARE = 0.2
# Studies of either class.
CAST_SHARE, DEGENERATIVE_SHARE, JEWELLERY_SHARE = 0.08, 0.2, 0.03

CHUNK = 4  # studies that a process draws at a time
POOL_FROM = 20  # fewer studies are drawn sooner than processes start

# Random streams of a study. What the label decides has its own, so nothing else can depend on the label.
STUDY, LABEL, LESION, VIEW, CUT = range(5)


README = """Synthetic images drawn by mura-trt demo, in the layout of the MURA dataset.

No patient's image is among them. They show software at work and say nothing of how a model does on people.
"""


@dataclass(frozen=True)
class DemoPlan:
    """What to draw.

    studies, train_studies are how many for valid/ and for train/; seed is of all random streams. With close_up above
    1, views are cut to 1/close_up of their height and width, about the lesion or, in normal studies, about the place
    where one could be: a network learns fine detail on small close-ups sooner. lesion_shares are of abnormal studies,
    in the order of LESION_KINDS.

    Raises
    ------
    UsageError : studies is below 1, train_studies or the seed negative, close_up not 1 to 4, or the shares' sum not 1.
    """

    studies: int
    seed: int
    train_studies: int = 0
    close_up: float = 1.0
    lesion_shares: tuple[float, ...] = LESION_SHARES

    def __post_init__(self) -> None:
        if self.studies < 1:
            raise UsageError(f"studies must be 1 or more, not {self.studies}")
        if self.train_studies < 0:
            raise UsageError(f"train_studies must be 0 or more, not {self.train_studies}")
        if self.seed < 0:
            raise UsageError(f"seed must be 0 or more, not {self.seed}")
        if not 1 <= self.close_up <= 4:
            raise UsageError(f"close_up must be 1 to 4, not {self.close_up}")
        if not (min(self.lesion_shares) >= 0 and abs(sum(self.lesion_shares) - 1) <= 1e-3):
            raise UsageError(f"lesion_shares must be 0 or more each and 1 in sum, not {self.lesion_shares}")


@dataclass(frozen=True)
class DemoView:
    """One view of a study.

    key is its path in the archive, "valid/XR_WRIST/patient00012/study1_positive/image1.png"; study is the
    directory of that; label is 1 for abnormal; lesion is "" and box None if there is none; traits name what
    else was drawn, whatever the label, of "oblique", "lateral", "collimated", "letters", "inverted", "cast",
    "degenerative" and "jewellery"; png holds the image file, of so many pixels' width and height.
    """

    key: str
    study: str
    body_part: str
    label: int
    lesion: str
    box: Box | None
    traits: frozenset[str]
    width: int
    height: int
    png: bytes


def _rng(seed: int, study: int, *stream: int) -> np.random.Generator:
    return np.random.default_rng([seed, study, *stream])


def _place(study: int, seed: int) -> tuple[int, str, int]:
    """The patient, body part and number within the patient's body part of a study.

    Of every ten studies, the fifth and the ninth belong to the patient of the study before: the fifth is a
    second study of the same body part, the ninth a first study of another one. The rest are new patients.
    """
    tens, unit = divmod(study, 10)
    patient = 1 + 8 * tens + unit - (unit >= 4) - (unit >= 8)
    if unit == 4:
        return patient, _place(study - 1, seed)[1], 2
    shares = MURA_STUDIES.astype(float)
    if unit == 8:
        shares[BODY_PARTS.index(_place(study - 1, seed)[1])] = 0
    return (
        patient,
        BODY_PARTS[_rng(seed, study, STUDY, 0).choice(len(BODY_PARTS), p=shares / shares.sum())],
        1,
    )


def _size(rng: np.random.Generator, body_part: str) -> tuple[int, int]:
    """A height of 108..512 and a width of 89..512 pixels to suit the body part; the longer is mostly 512."""
    field = FIELDS[body_part]
    aspect = field.width / field.height * rng.lognormal(0, 0.15)
    if rng.random() < 0.12:  # the limb lies across the film
        aspect = 1 / aspect
    longer = 512 if rng.random() < 0.9 else rng.integers(200, 512)
    height, width = longer * min(1, 1 / aspect), longer * min(1, aspect)
    return int(np.clip(height, 108, 512)), int(np.clip(width, 89, 512))


def _png(gray: NDArray[np.uint8], rgb: bool) -> bytes:
    """A PNG of (H, W) gray levels, as three equal channels if rgb."""
    from PIL import Image

    image = Image.fromarray(gray)
    buffer = io.BytesIO()
    # Grain never repeats itself: a search for repeats would cost time for nothing, but for the equal channels of RGB.
    if rgb:
        image.convert("RGB").save(buffer, "PNG", compress_level=1)
    else:
        image.save(buffer, "PNG", compress_level=1, compress_type=zlib.Z_HUFFMAN_ONLY)
    return buffer.getvalue()


def _cut(rng: np.random.Generator, drawn: Drawn, about: Box, close_up: float) -> tuple[NDArray[np.uint8], Box | None]:
    """1/close_up of a view's height and width about a place in it, and the lesion's box there.

    The place lies anywhere in the cut that it fits into.
    """
    starts, sides = [], []
    for low, high, side in ((about.y0, about.y1, drawn.gray.shape[0]), (about.x0, about.x1, drawn.gray.shape[1])):
        cut = round(side / close_up)
        first, last = sorted((high - cut, low))
        starts.append(int(np.clip(rng.integers(first, last + 1), 0, side - cut)))
        sides.append(cut)
    (y, x), (height, width) = starts, sides
    box = drawn.box and Box(*np.clip(np.subtract(drawn.box, (x, y, x, y)), 0, (width, height, width, height)).tolist())
    return np.ascontiguousarray(drawn.gray[y : y + height, x : x + width]), box


def _study(plan: DemoPlan, study: int, split: str) -> list[DemoView]:
    seed = plan.seed
    patient, body_part, number = _place(study, seed)
    label_rng = _rng(seed, study, LABEL)
    label = int(label_rng.random() < ABNORMAL)
    lesion_shares = np.array(plan.lesion_shares) / sum(plan.lesion_shares)
    kind = str(label_rng.choice(LESION_KINDS, p=lesion_shares))  # of a normal study: the one it does not have
    lesion = kind if label else ""
    folder = f"{split}/XR_{body_part}/patient{patient:05d}/study{number}_{'positive' if label else 'negative'}"
    shares = np.array(VIEW_SHARES) / sum(VIEW_SHARES)
    person = Person(*(_rng(seed, study, STUDY, 2).random(3) < (CAST_SHARE, DEGENERATIVE_SHARE, JEWELLERY_SHARE)))
    views = []
    for k in range(1, 2 + int(_rng(seed, study, STUDY, 1).choice(len(shares), p=shares))):
        rng = _rng(seed, study, VIEW, k)
        size, rgb = _size(rng, body_part), bool(rng.random() < RGB_SHARE)
        # Each view starts the lesion's stream afresh, so that a study's views show the same lesion.
        state = rng.bit_generator.state
        drawn = draw_view(rng, _rng(seed, study, LESION), body_part, lesion or None, size, person)
        gray, box = drawn.gray, drawn.box
        if plan.close_up > 1:
            # A normal view is cut about the place where a lesion could be, so that the cut does not tell the label.
            rng.bit_generator.state = state
            about = box or draw_view(rng, _rng(seed, study, LESION), body_part, kind, size, person).box
            assert about is not None  # every kind of lesion has one
            gray, box = _cut(_rng(seed, study, CUT, k), drawn, about, plan.close_up)
        height, width = gray.shape
        key, png = f"{folder}/image{k}.png", _png(gray, rgb)
        views.append(DemoView(key, folder, body_part, label, lesion, box, drawn.traits, width, height, png))
    return views


def _chunk(plan: DemoPlan, places: list[tuple[int, str]]) -> list[list[DemoView]]:
    return [_study(plan, study, split) for study, split in places]


def _in_parallel(plan: DemoPlan, chunks: Iterator[list[tuple[int, str]]], processes: int) -> Iterator[list[DemoView]]:
    """The chunks' studies in order; a few chunks a process are drawn ahead, and no more are held in memory."""
    waiting: deque[Future[list[list[DemoView]]]] = deque()
    pool = ProcessPoolExecutor(processes, get_context("spawn"), work_for, (os.getpid(),))
    try:
        for chunk in chunks:
            waiting.append(pool.submit(_chunk, plan, chunk))
            if len(waiting) > 3 * processes:
                yield from waiting.popleft().result()
        while waiting:
            yield from waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def demo_studies(plan: DemoPlan, processes: int | None = None) -> Iterator[list[DemoView]]:
    """Draw studies in memory, one list of views a study; needs Pillow.

    An abnormal study has one kind of lesion, which every one of its views shows. A study depends on the seed
    and its position only, not on how many are asked for or on who draws it. The train studies come last, and
    start at a multiple of ten, so that no patient has studies in both splits.

    Parameters
    ----------
    plan : what to draw.
    processes : how many draw; by default one a usable core, or this one alone for fewer than 20 studies. They
        import the main module anew, which must therefore not draw when imported.
    """
    if processes is None:
        processes = usable_cores() if plan.studies + plan.train_studies >= POOL_FROM else 1
    start = -(-plan.studies // 10) * 10
    places = chain(
        ((study, "valid") for study in range(plan.studies)),
        ((study, "train") for study in range(start, start + plan.train_studies)),
    )
    if processes == 1:
        return (_study(plan, study, split) for study, split in places)
    return _in_parallel(plan, iter(lambda: list(islice(places, CHUNK)), []), processes)


def _write(folder: Path, prefix: str, splits: list[str], studies: Iterator[list[DemoView]]) -> int:
    """Write images and lists into an empty folder; the lists' paths start with the prefix, as MURA's do."""
    count = 0
    (folder / "README.txt").write_text(README)
    with ExitStack() as files:

        def opened(name: str) -> TextIO:
            return files.enter_context((folder / name).open("w", newline=""))

        paths = {split: opened(f"{split}_image_paths.csv") for split in splits}
        labels = {split: opened(f"{split}_labeled_studies.csv") for split in splits}
        lesions = csv.writer(opened("lesions.csv"), lineterminator="\n")
        lesions.writerow(["view", "study", "body_part", "kind", *Box._fields, "width", "height"])
        all_views = csv.writer(opened("views.csv"), lineterminator="\n")
        all_views.writerow(["view", "study", "body_part", "label", "kind", "traits"])
        for views in studies:
            split = views[0].study.split("/")[0]
            labels[split].write(f"{prefix}/{views[0].study}/,{views[0].label}\n")
            (folder / views[0].study).mkdir(parents=True)
            for view in views:
                (folder / view.key).write_bytes(view.png)
                paths[split].write(f"{prefix}/{view.key}\n")
                about = [view.key, view.study, view.body_part]
                all_views.writerow([*about, view.label, view.lesion, ";".join(sorted(view.traits))])
                if view.box:
                    lesions.writerow([*about, view.lesion, *view.box, view.width, view.height])
            count += len(views)
    return count


def write_archive(root: Path, plan: DemoPlan) -> int:
    """Write a synthetic archive and return its number of views; needs Pillow.

    Beside valid/ lie README.txt, valid_image_paths.csv and valid_labeled_studies.csv, whose paths start with root's
    own name, and two tables whose paths are relative to root: lesions.csv
    (view,study,body_part,kind,x0,y0,x1,y1,width,height) and views.csv (view,study,body_part,label,kind,traits; traits
    joined by ";"). With train_studies, train/ and its two lists lie beside them, and the tables cover both. Root
    appears only once everything is written.

    Raises
    ------
    UsageError : if root exists and is not an empty folder.
    """
    root = root.resolve()
    drawn = demo_studies(plan)
    if root.exists():
        if not root.is_dir() or any(root.iterdir()):
            raise UsageError(f"{root} exists and is not an empty folder: remove it or choose another")
        root.rmdir()
    root.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{root.name}-", dir=root.parent) as partial:
        folder = Path(partial) / root.name
        folder.mkdir()
        count = _write(folder, root.name, ["valid", "train"] if plan.train_studies else ["valid"], drawn)
        folder.rename(root)
    return count
