"""Small pictures of views: of the heatmap's overlay where one was drawn, else of the archive, as scoring saw them."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mura_trt.archives import list_archive
from mura_trt.archives.dicoms import HeaderIndex
from mura_trt.archives.listing import Listing
from mura_trt.archives.lists import is_list
from mura_trt.earlier import hashes_of, read_hashes
from mura_trt.errors import MuraTrtError, UsageError
from mura_trt.evaluation.finished import disclosure_of
from mura_trt.report.data import ScoredRun
from mura_trt.results import HASHES_FILE, HEADERS_FILE

if TYPE_CHECKING:
    from PIL import Image

SIZE = 112  # pixels, height and width
QUALITY = 60
VIEWS_A_STUDY = 4
DECODED = (320, 320)  # what the network sees
MAX_OVERLAY = 4096  # pixels of an overlay's side
_NAMES_AT_ONCE = 50_000

Report = Callable[[str], None]


@dataclass
class Pictures:
    """JPEG files by view, which of them show a heatmap, and what became of the others."""

    jpegs: dict[str, bytes] = field(default_factory=dict)
    overlays: set[str] = field(default_factory=set)
    notes: list[str] = field(default_factory=list)


def chosen_views(run: ScoredRun, studies: int) -> list[str]:
    """The scored views with the highest probabilities of the first so many studies of the worklist, a few of each."""
    first = set(run.studies["study"][:studies])
    views = run.views[run.views["study"].isin(first)].sort_values("probability", ascending=False, kind="stable")
    chosen: list[str] = views.groupby("study", sort=False).head(VIEWS_A_STUDY)["view"].tolist()
    return chosen


def pictures(run: ScoredRun, views: list[str], salt_file: Path | None, report: Report) -> Pictures:
    """Pictures of the views, as far as they can be had; a note says what is missing, and why.

    Parameters
    ----------
    run
        Whose overlays are taken, and whose archive is read.
    views
        By name.
    salt_file
        What the hashes of DICOM files' paths are keyed with; None takes the user's own. It is not made here.
    report
        Told how far it is.
    """
    found = Pictures()

    def progress() -> None:
        report(f"{len(found.jpegs):,} of {len(views):,} pictures")

    for view in views:
        if view in run.heatmaps and (jpeg := _of_overlay(run.folder, run.heatmaps[view])):
            found.jpegs[view] = jpeg
            found.overlays.add(view)
            progress()
    rest = {view for view in views if view not in found.jpegs}
    try:
        if rest:
            _add_from_archive(found, run, rest, salt_file, progress)
    except (MuraTrtError, OSError) as error:
        found.notes.append(f"No pictures from the archive: {error}")
    return found


def _of_overlay(folder: Path, file: str) -> bytes | None:
    """None where there is no such JPEG file inside the folder."""
    from PIL import Image

    path = folder / file
    try:
        if not path.resolve().is_relative_to(folder.resolve()):
            return None
        with Image.open(path, formats=["JPEG"]) as image:
            return _jpeg(image) if max(image.size) <= MAX_OVERLAY else None
    except (OSError, ValueError, SyntaxError):  # Pillow's, of broken files; ValueError of names, too
        return None


def _add_from_archive(
    found: Pictures, run: ScoredRun, wanted: set[str], salt_file: Path | None, report: Callable[[], None]
) -> None:
    from PIL import Image

    listing = _listed(run, salt_file)
    rows = _rows(listing, wanted)
    if not len(rows):
        found.notes.append("No pictures from the archive: none of the views that were scored is in it any more.")
        return
    same = rows[_unchanged(listing.take(rows), read_hashes(run.folder / HASHES_FILE))]
    kept = listing.take(same)
    names = listing.view_names(kept.views.to_pylist())
    decoded = 0
    for view, pixels in _decoded(kept):
        found.jpegs[names[view]] = _jpeg(Image.fromarray(pixels[..., 0]))
        decoded += 1
        report()
    for count, why in (
        (len(wanted) - len(rows), "they are not in the archive any more"),
        (len(rows) - len(same), "their files have changed since they were scored"),
        (len(same) - decoded, "they cannot be read any more"),
    ):
        if count:
            found.notes.append(f"{count:,} views have no picture: {why}.")


def _listed(run: ScoredRun, salt_file: Path | None) -> Listing:
    """The archive's views as the run listed them, but for their studies, which the run's tables tell."""
    named, root = str(run.run["archive"]), run.recipe.get("archive")
    if root is None:
        raise UsageError("the run has left no note of what it read")
    disclosure = disclosure_of(run.recipe, salt_file)
    index = HeaderIndex.read(run.folder / HEADERS_FILE)
    if "://" in named:
        return list_archive(named, disclosure=disclosure, index=index)
    path = Path(named)
    if not is_list(path) and not path.is_absolute():  # it was named from where that run was begun
        path = Path(root).parent / path.name if "{" in path.name else Path(root)
    # Of a list, what is noted is where its relative paths start.
    return list_archive(path, root=Path(root) if is_list(path) else None, disclosure=disclosure, index=index)


def _rows(listing: Listing, wanted: set[str]) -> NDArray[np.int64]:
    """The numbers of the wanted views, in order of reading."""
    parts = listing.view_names_in_parts(_NAMES_AT_ONCE)
    return np.array(
        [
            number * _NAMES_AT_ONCE + at
            for number, names in enumerate(parts)
            for at, name in enumerate(names)
            if name in wanted
        ],
        np.int64,
    )


def _unchanged(listing: Listing, scored: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """Whether each view is one that was scored, by size and time; a view of which neither is known is taken for one."""
    hashes = hashes_of(listing)
    if not len(scored):  # the run is of a version that noted none
        return np.ones(len(hashes), np.bool_)
    return np.isin(hashes[:, 0], scored[:, 0]) | ~hashes.any(axis=1)


def _decoded(listing: Listing) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """Views by number with pixels uint8 (H, W, 1), a batch of them in memory at a time."""
    from mura_trt.pixels import decoded_listing

    for batch in decoded_listing(listing, DECODED):
        yield from zip(batch.views, batch.pixels, strict=True)


def _jpeg(image: Image.Image) -> bytes:
    from PIL import Image as Pillow

    plain = image if image.mode == "L" else image.convert("RGB")
    out = io.BytesIO()
    plain.resize((SIZE, SIZE), Pillow.Resampling.LANCZOS).save(out, "JPEG", quality=QUALITY, optimize=True)
    return out.getvalue()
