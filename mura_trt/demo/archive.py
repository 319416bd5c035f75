"""Lays synthetic views out as an archive with MURA's folders, file names and label lists."""

from __future__ import annotations

import csv
import io
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mura_trt.demo.anatomy import BODY_PARTS, FIELDS
from mura_trt.demo.xray import LESION_KINDS, Box, draw_view
from mura_trt.errors import UsageError

# MURA's studies by body part (Rajpurkar et al. 2018, table 1), in the order of BODY_PARTS.
MURA_STUDIES = np.array([1912, 2110, 1010, 2185, 727, 3015, 3697])
ABNORMAL = 0.4
# In the order of LESION_KINDS. Of 100 abnormal studies that MURA's authors looked through, 53 had fractures and 48
# hardware (Rajpurkar et al. 2018, section 2); a fracture here is displaced in two of five.
LESION_SHARES = (0.31, 0.21, 0.48)
# Of studies with 1, 2, ... 13 views.
VIEW_SHARES = (0.12, 0.32, 0.42, 0.09, 0.025, 0.01, 0.005, 0.003, 0.002, 0.002, 0.001, 0.001, 0.001)
RGB_SHARE = 0.2

# Random streams of a study. What the label decides has its own, so nothing else can depend on the label.
STUDY, LABEL, LESION, VIEW = range(4)


README = """Synthetic images drawn by mura-trt demo, in the layout of the MURA dataset.

No patient's image is among them. They show software at work and say nothing of how a model does on people.
"""


@dataclass(frozen=True)
class DemoView:
    """One view of a study.

    key is its path in the archive, "valid/XR_WRIST/patient00012/study1_positive/image1.png"; study is the
    directory of that; label is 1 for abnormal; lesion is "" and box None if there is none; png holds the
    image file.
    """

    key: str
    study: str
    body_part: str
    label: int
    lesion: str
    box: Box | None
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
    # Grain hardly compresses, so a higher level would cost time for nothing.
    (image.convert("RGB") if rgb else image).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def _study(study: int, seed: int) -> list[DemoView]:
    patient, body_part, number = _place(study, seed)
    label_rng = _rng(seed, study, LABEL)
    label = int(label_rng.random() < ABNORMAL)
    lesion = str(label_rng.choice(LESION_KINDS, p=LESION_SHARES)) if label else ""
    folder = f"valid/XR_{body_part}/patient{patient:05d}/study{number}_{'positive' if label else 'negative'}"
    shares = np.array(VIEW_SHARES) / sum(VIEW_SHARES)
    views = []
    for k in range(1, 2 + int(_rng(seed, study, STUDY, 1).choice(len(shares), p=shares))):
        rng = _rng(seed, study, VIEW, k)
        size, rgb = _size(rng, body_part), bool(rng.random() < RGB_SHARE)
        # Each view starts the lesion's stream afresh, so that a study's views show the same lesion.
        gray, box = draw_view(rng, _rng(seed, study, LESION), body_part, lesion or None, size)
        key = f"{folder}/image{k}.png"
        views.append(DemoView(key, folder, body_part, label, lesion, box, _png(gray, rgb)))
    return views


def demo_studies(studies: int, seed: int) -> Iterator[list[DemoView]]:
    """Draw studies in memory, one list of views a study; needs Pillow.

    An abnormal study has one kind of lesion, which every one of its views shows. A study depends on the seed
    and its position only, not on how many are asked for.

    Raises
    ------
    UsageError : if studies is below 1 or the seed is negative.
    """
    if studies < 1:
        raise UsageError(f"studies must be 1 or more, not {studies}")
    if seed < 0:
        raise UsageError(f"seed must be 0 or more, not {seed}")
    return (_study(study, seed) for study in range(studies))


def _write(folder: Path, prefix: str, studies: Iterator[list[DemoView]]) -> int:
    """Write images and lists into an empty folder; the lists' paths start with the prefix, as MURA's do."""
    count = 0
    (folder / "README.txt").write_text(README)
    with (
        (folder / "valid_image_paths.csv").open("w", newline="") as paths,
        (folder / "valid_labeled_studies.csv").open("w", newline="") as labels,
        (folder / "lesions.csv").open("w", newline="") as boxes,
    ):
        lesions = csv.writer(boxes, lineterminator="\n")
        lesions.writerow(["view", "study", "body_part", "kind", *Box._fields])
        for views in studies:
            labels.write(f"{prefix}/{views[0].study}/,{views[0].label}\n")
            (folder / views[0].study).mkdir(parents=True)
            for view in views:
                (folder / view.key).write_bytes(view.png)
                paths.write(f"{prefix}/{view.key}\n")
                if view.box:
                    lesions.writerow([view.key, view.study, view.body_part, view.lesion, *view.box])
            count += len(views)
    return count


def write_archive(root: Path, studies: int, seed: int) -> int:
    """Write a synthetic archive and return its number of views; needs Pillow.

    Beside valid/ lie README.txt, valid_image_paths.csv and valid_labeled_studies.csv, whose paths start with root's
    own name, and lesions.csv (view,study,body_part,kind,x0,y0,x1,y1), whose paths are relative to root. Root
    appears only once everything is written.

    Raises
    ------
    UsageError : if root exists and is not an empty folder.
    UsageError : if studies is below 1 or the seed is negative.
    """
    root = root.resolve()
    drawn = demo_studies(studies, seed)
    if root.exists():
        if not root.is_dir() or any(root.iterdir()):
            raise UsageError(f"{root} exists and is not an empty folder: remove it or choose another")
        root.rmdir()
    root.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{root.name}-", dir=root.parent) as partial:
        folder = Path(partial) / root.name
        folder.mkdir()
        count = _write(folder, root.name, drawn)
        folder.rename(root)
    return count
