from __future__ import annotations

import csv
import io
import json
import math
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from typer.testing import CliRunner

from mura_trt.cli import app
from mura_trt.demo import archive
from mura_trt.demo.anatomy import BODY_PARTS
from mura_trt.demo.archive import DemoPlan, DemoView, demo_studies, write_archive
from mura_trt.demo.xray import LESION_KINDS, Box, Drawn, Person
from mura_trt.errors import UsageError

STUDIES = 72  # drawn once for all tests; some 190 views


@pytest.fixture(scope="module")
def studies() -> list[list[DemoView]]:
    return list(demo_studies(DemoPlan(STUDIES, seed=1)))


@pytest.fixture
def unlit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Skips the drawing, so that a test can look at thousands of studies; they must be drawn in this process."""

    def draw_view(
        rng: np.random.Generator,
        lesion_rng: np.random.Generator,
        body_part: str,
        lesion: str | None,
        size: tuple[int, int],
        person: Person,
    ) -> Drawn:
        traits = frozenset(trait for trait, has in person._asdict().items() if has)
        return Drawn(np.broadcast_to(np.uint8(0), size), Box(0, 0, 1, 1) if lesion else None, traits)

    def png(gray: NDArray[np.uint8], rgb: bool) -> bytes:
        return json.dumps([*gray.shape, rgb]).encode()

    monkeypatch.setattr(archive, "draw_view", draw_view)
    monkeypatch.setattr(archive, "_png", png)


def unlit_studies(studies: int, seed: int, train_studies: int = 0) -> list[list[DemoView]]:
    return list(demo_studies(DemoPlan(studies, seed, train_studies), processes=1))


def test_a_study_depends_on_seed_and_position_only(studies: list[list[DemoView]]) -> None:
    assert list(demo_studies(DemoPlan(3, seed=1))) == studies[:3]
    assert list(islice(demo_studies(DemoPlan(10**6, seed=1), processes=1), 2)) == studies[:2]
    assert next(demo_studies(DemoPlan(1, seed=2))) != studies[0]


def test_views_are_as_described(studies: list[list[DemoView]]) -> None:
    key = re.compile(r"valid/XR_([A-Z]+)/patient\d{5}/study\d_(positive|negative)/image(\d+)\.png")
    keys = [view.key for views in studies for view in views]
    assert len(set(keys)) == len(keys)
    for views in studies:
        assert len({(view.study, view.body_part, view.label, view.lesion) for view in views}) == 1
        for number, view in enumerate(views, 1):
            match = key.fullmatch(view.key)
            assert match is not None
            assert match.groups() == (view.body_part, "positive" if view.label else "negative", str(number))
            assert view.key.startswith(view.study + "/")
            image = Image.open(io.BytesIO(view.png))
            assert image.mode in ("L", "RGB")
            assert image.size == (view.width, view.height)
            assert 89 <= image.width <= 512
            assert 108 <= image.height <= 512
            if image.mode == "RGB":
                assert len({band.tobytes() for band in image.split()}) == 1
            assert (view.box is not None) == (view.lesion in LESION_KINDS) == (view.label == 1)
            if view.box:
                assert 0 <= view.box.x0 < view.box.x1 <= image.width
                assert 0 <= view.box.y0 < view.box.y1 <= image.height


@pytest.mark.usefixtures("unlit")
def test_distributions_are_near_muras() -> None:
    drawn = unlit_studies(3000, seed=0)
    counts = np.array([len(views) for views in drawn])
    assert 2.5 < counts.mean() < 2.9
    assert counts.min() == 1
    assert counts.max() <= 13
    assert np.isin(counts, (2, 3)).mean() > 0.6
    assert 0.36 < np.mean([views[0].label for views in drawn]) < 0.44
    parts = [views[0].body_part for views in drawn]
    assert set(parts) == set(BODY_PARTS)
    assert max(BODY_PARTS, key=parts.count) == "WRIST"
    assert min(BODY_PARTS, key=parts.count) == "HUMERUS"
    sizes = np.array([json.loads(view.png) for views in drawn for view in views])
    assert sizes[:, 0].min() >= 108
    assert sizes[:, 1].min() >= 89
    assert sizes[:, :2].max() == 512
    assert 0.8 < (sizes[:, :2].max(1) == 512).mean() < 0.97
    assert 0.17 < sizes[:, 2].mean() < 0.23


@pytest.mark.usefixtures("unlit")
@pytest.mark.parametrize("abnormal", [0.0, 1.0])
def test_label_changes_only_suffix_and_lesion(abnormal: float, monkeypatch: pytest.MonkeyPatch) -> None:
    def without_label(views: list[DemoView]) -> list[tuple[str, str, frozenset[str], bytes]]:
        return [(re.sub("positive|negative", "", view.key), view.body_part, view.traits, view.png) for view in views]

    mixed = [without_label(views) for views in unlit_studies(200, seed=3)]
    monkeypatch.setattr(archive, "ABNORMAL", abnormal)
    assert [without_label(views) for views in unlit_studies(200, seed=3)] == mixed


@pytest.mark.parametrize("close_up", [1, 2.5])
def test_the_label_leaves_the_picture_around_the_lesion_alone(close_up: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where views are cut about the lesion: a normal view is cut at the very same place."""

    def drawn(abnormal: float) -> list[DemoView]:
        monkeypatch.setattr(archive, "ABNORMAL", abnormal)
        return [view for views in demo_studies(DemoPlan(8, seed=4, close_up=close_up)) for view in views]

    for healthy, hurt in zip(drawn(0.0), drawn(1.0), strict=True):
        pixels = [np.asarray(Image.open(io.BytesIO(view.png)).convert("L"), int) for view in (healthy, hurt)]
        difference = np.abs(pixels[0] - pixels[1])
        assert hurt.box is not None
        assert hurt.traits == healthy.traits
        difference[hurt.box.y0 : hurt.box.y1, hurt.box.x0 : hurt.box.x1] = 0
        assert difference.max() <= 4


def test_a_close_up_is_a_part_of_the_view_with_the_lesion_in_it() -> None:
    def pixels(view: DemoView) -> NDArray[np.uint8]:
        return np.asarray(Image.open(io.BytesIO(view.png)).convert("L"))

    for whole, cut in zip(
        chain(*demo_studies(DemoPlan(8, seed=4))), chain(*demo_studies(DemoPlan(8, seed=4, close_up=2))), strict=True
    ):
        full, part = pixels(whole), pixels(cut)
        assert part.shape == tuple(round(side / 2) for side in full.shape)
        windows = np.lib.stride_tricks.sliding_window_view(full, part.shape)
        # One row and one column tell where it was cut from.
        at = np.argwhere((windows[:, :, 0, :] == part[0]).all(-1) & (windows[:, :, :, 0] == part[:, 0]).all(-1))
        assert len(at) == 1 and (windows[tuple(at[0])] == part).all()
        assert (cut.key, cut.label, cut.traits) == (whole.key, whole.label, whole.traits)
        if cut.box and whole.box:
            (y, x), (height, width) = at[0].tolist(), part.shape
            moved = (whole.box.x0 - x, whole.box.y0 - y, whole.box.x1 - x, whole.box.y1 - y)
            assert cut.box == tuple(np.clip(moved, 0, (width, height, width, height)).tolist())
            assert cut.box.x1 - cut.box.x0 == min(width, whole.box.x1 - whole.box.x0)
            assert cut.box.y1 - cut.box.y0 == min(height, whole.box.y1 - whole.box.y0)
        else:
            assert cut.box is whole.box is None


@pytest.mark.usefixtures("unlit")
def test_patients_share_studies_as_in_mura() -> None:
    where = [re.split("[/_]", views[0].study) for views in unlit_studies(200, seed=5)]
    patients: dict[str, set[tuple[str, str]]] = {}
    for _, _, part, patient, number, _ in where:
        assert (part, number) not in patients.setdefault(patient, set())
        patients[patient].add((part, number))
    several = [places for places in patients.values() if len(places) > 1]
    assert len(several) == 40
    assert sum(len({part for part, _ in places}) == 1 for places in several) == 20
    assert sum({number for _, number in places} == {"study1"} for places in several) == 20


def test_archive_holds_the_views_and_their_lists(tmp_path: Path, studies: list[list[DemoView]]) -> None:
    root = tmp_path / "new" / "archive"
    views = [view for study in studies[:12] for view in study]
    assert write_archive(root, DemoPlan(12, seed=1)) == len(views)
    assert {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*.png")} == {
        view.key: view.png for view in views
    }
    listed = (root / "valid_image_paths.csv").read_text().splitlines()
    assert listed == [f"archive/{view.key}" for view in views]
    assert (root / "valid_labeled_studies.csv").read_text().splitlines() == [
        f"archive/{study[0].study}/,{study[0].label}" for study in studies[:12]
    ]
    with (root / "lesions.csv").open(newline="") as file:
        header, *rows = csv.reader(file)
    assert header == ["view", "study", "body_part", "kind", "x0", "y0", "x1", "y1", "width", "height"]
    assert rows == [
        [view.key, view.study, view.body_part, view.lesion, *map(str, (*view.box, view.width, view.height))]
        for view in views
        if view.box
    ]
    with (root / "views.csv").open(newline="") as file:
        header, *rows = csv.reader(file)
    assert header == ["view", "study", "body_part", "label", "kind", "traits"]
    assert rows == [
        [view.key, view.study, view.body_part, str(view.label), view.lesion, ";".join(sorted(view.traits))]
        for view in views
    ]
    assert "Synthetic images" in (root / "README.txt").read_text()
    assert sorted(path.name for path in root.iterdir()) == [
        "README.txt",
        "lesions.csv",
        "valid",
        "valid_image_paths.csv",
        "valid_labeled_studies.csv",
        "views.csv",
    ]
    assert [path.name for path in root.parent.iterdir()] == ["archive"]


def test_an_empty_root_is_used_and_a_full_one_left_alone(tmp_path: Path) -> None:
    root = tmp_path / "archive"
    root.mkdir()
    write_archive(root, DemoPlan(1, seed=0))
    before = sorted(root.rglob("*"))
    with pytest.raises(UsageError, match=f"{re.escape(str(root))} .*remove it or choose another"):
        write_archive(root, DemoPlan(1, seed=0))
    assert sorted(root.rglob("*")) == before


def test_an_interrupted_run_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(archive, "_png", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_archive(tmp_path / "archive", DemoPlan(2, seed=0))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("studies", [0, -1])
def test_no_studies_are_refused(tmp_path: Path, studies: int) -> None:
    with pytest.raises(UsageError, match="studies must be 1 or more"):
        write_archive(tmp_path / "archive", DemoPlan(studies, seed=0))
    with pytest.raises(UsageError, match="studies must be 1 or more"):
        demo_studies(DemoPlan(studies, seed=0))


@pytest.mark.parametrize("close_up", [0.5, 5])
def test_a_close_up_of_nothing_or_of_a_speck_is_refused(close_up: float) -> None:
    with pytest.raises(UsageError, match="close_up must be 1 to 4"):
        demo_studies(DemoPlan(1, seed=0, close_up=close_up))


def test_a_negative_seed_is_refused() -> None:
    with pytest.raises(UsageError, match="seed must be 0 or more"):
        demo_studies(DemoPlan(1, seed=-1))


def test_negative_train_studies_are_refused() -> None:
    with pytest.raises(UsageError, match="train_studies must be 0 or more"):
        demo_studies(DemoPlan(1, seed=0, train_studies=-1))


@pytest.mark.usefixtures("unlit")
def test_no_patient_is_in_both_splits() -> None:
    for count in (3, 4, 5, 9, 10):
        drawn = unlit_studies(count, seed=2, train_studies=25)
        assert drawn[:count] == unlit_studies(count, seed=2)
        assert [views[0].key.split("/")[0] for views in drawn] == ["valid"] * count + ["train"] * 25
        patients = [{views[0].key.split("/")[2] for views in part} for part in (drawn[:count], drawn[count:])]
        assert patients[0].isdisjoint(patients[1])


def test_the_train_split_lies_beside_valid(tmp_path: Path) -> None:
    root = tmp_path / "archive"
    drawn = list(demo_studies(DemoPlan(2, seed=6, train_studies=3)))
    views = [view for study in drawn for view in study]
    assert write_archive(root, DemoPlan(2, seed=6, train_studies=3)) == len(views)
    for split in ("valid", "train"):
        listed = (root / f"{split}_image_paths.csv").read_text().splitlines()
        assert listed == [f"archive/{view.key}" for view in views if view.key.startswith(split)]
        labels = (root / f"{split}_labeled_studies.csv").read_text().splitlines()
        assert labels == [f"archive/{v[0].study}/,{v[0].label}" for v in drawn if v[0].key.startswith(split)]
    for name, expected in {"views.csv": views, "lesions.csv": [view for view in views if view.box]}.items():
        with (root / name).open(newline="") as file:
            assert [row["view"] for row in csv.DictReader(file)] == [view.key for view in expected]
    assert all((root / view.key).read_bytes() == view.png for view in views)


def test_it_does_not_matter_how_many_processes_draw(studies: list[list[DemoView]]) -> None:
    assert list(demo_studies(DemoPlan(9, seed=1), processes=1)) == studies[:9]
    assert list(demo_studies(DemoPlan(9, seed=1), processes=2)) == studies[:9]


def test_whoever_stops_early_leaves_no_process_behind() -> None:
    before = set(multiprocessing.active_children())
    drawn = demo_studies(DemoPlan(10**6, seed=1), processes=2)
    next(drawn)
    assert set(multiprocessing.active_children()) - before
    drawn.close()  # type: ignore[attr-defined]
    assert set(multiprocessing.active_children()) <= before


def test_a_drawing_process_that_fails_says_why_and_leaves_no_other_behind() -> None:
    before = set(multiprocessing.active_children())
    chunks = iter([[(0, "valid")], [("none", "valid")], [(1, "valid")]])
    with pytest.raises(TypeError, match="unsupported operand"):
        list(archive._in_parallel(DemoPlan(1, 1), chunks, 2))  # type: ignore[arg-type]
    assert set(multiprocessing.active_children()) <= before


def test_ctrl_c_leaves_no_archive_and_no_process(tmp_path: Path) -> None:
    code = "from mura_trt.cli import app; app()"
    command = [sys.executable, "-c", code, "demo", str(tmp_path / "archive"), "--studies", "100000"]
    # A shell's background jobs ignore Ctrl-C, and so would what they start.
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    process = subprocess.Popen(command, start_new_session=True, stderr=subprocess.DEVNULL)
    signal.signal(signal.SIGINT, handler)
    try:
        _wait_for(lambda: any(tmp_path.rglob("*.png")), 60)
        os.killpg(process.pid, signal.SIGINT)
        assert process.wait(60) != 0
        _wait_for(lambda: not _alive(process.pid))
    finally:
        if _alive(process.pid):
            os.killpg(process.pid, signal.SIGKILL)
    assert list(tmp_path.iterdir()) == []


def _wait_for(condition: Callable[[], bool], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def _alive(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


TRAITS = ("oblique", "lateral", "collimated", "letters", "inverted", "cast", "degenerative", "jewellery")


def _beside_the_bone(view: DemoView, views: int) -> list[float]:
    """What is known of a view without a look at its bones: path, size, channels, traits."""
    patient, study, image = (int(number) for number in re.findall(r"(?:patient|study|image)(\d+)", view.key))
    return [patient, study, image, views, len(view.png), *(trait in view.traits for trait in TRAITS)]


def _off_the_pixels(view: DemoView) -> list[float]:
    """Size, channels, and mean and spread of the corners; of the border, the spread of its finest grain."""
    image = Image.open(io.BytesIO(view.png))
    gray = np.asarray(image.convert("L"), float)
    side = min(gray.shape) // 8
    corners = [gray[rows, columns] for rows in np.s_[:side, -side:] for columns in np.s_[:side, -side:]]
    fine = gray[1:, 1:] - gray[1:, :-1] - gray[:-1, 1:] + gray[:-1, :-1]
    border = np.concatenate([fine[:6].ravel(), fine[-6:].ravel(), fine[:, :6].ravel(), fine[:, -6:].ravel()])
    grain = [float(np.median(np.abs(border))), float(border.std())]
    return [*gray.shape, image.mode == "RGB", *grain, *(f(corner) for corner in corners for f in (np.mean, np.std))]


def _off_the_json(view: DemoView) -> list[float]:
    return list(json.loads(view.png))


def leak(studies: list[list[DemoView]], of_view: Callable[[DemoView], list[float]]) -> tuple[float, float, float]:
    """How well a view's label can be told without its bones: AUROC by patient and its 99 % interval by study."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import roc_auc_score
    from sklearn.model_selection import StratifiedGroupKFold
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    views = [(number, len(study), view) for number, study in enumerate(studies) for view in study]
    features = np.array([[*_beside_the_bone(view, count), *of_view(view)] for _, count, view in views])
    labels, study = np.array([view.label for *_, view in views]), np.array([number for number, *_ in views])
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=1000))
    scores = np.empty(len(labels))
    for fit, held in StratifiedGroupKFold(5).split(features, labels, features[:, 0]):
        score = model.fit(features[fit], labels[fit]).predict_proba(features[held])[:, 1]
        # Folds rich in one class are fitted on fewer of it, so that only ranks within a fold say something.
        scores[held] = score.argsort().argsort() / len(held)
    rng, draws, members = np.random.default_rng(0), [], [np.flatnonzero(study == s) for s in range(len(studies))]
    for _ in range(400):
        chosen = np.concatenate([members[s] for s in rng.integers(0, len(studies), len(studies))])
        if 0 < labels[chosen].mean() < 1:
            draws.append(roc_auc_score(labels[chosen], scores[chosen]))
    low, high = np.quantile(draws, [0.005, 0.995]).tolist()
    return float(roc_auc_score(labels, scores)), low, high


@pytest.mark.slow
def test_the_label_cannot_be_told_from_what_is_not_the_bone(studies: list[list[DemoView]]) -> None:
    auroc, low, high = leak(studies, _off_the_pixels)
    assert low <= 0.5 <= high, auroc


@pytest.mark.usefixtures("unlit")
def test_nor_from_the_paths_sizes_and_traits_of_many_studies() -> None:
    auroc, low, high = leak(unlit_studies(1200, seed=9), _off_the_json)
    assert low <= 0.5 <= high, auroc
    assert high - low < 0.15


@pytest.mark.usefixtures("unlit")
def test_a_leak_would_be_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Casts that come with the label in a fifth of the abnormal studies are enough."""
    honest = vars(archive)["draw_view"]

    def leaking(*arguments: Any) -> Drawn:
        *others, person = arguments
        _, lesion_rng, _, lesion, _ = others
        cast = person.cast or (lesion is not None and lesion_rng.random() < 0.2)
        drawn: Drawn = honest(*others, person._replace(cast=cast))
        return drawn

    monkeypatch.setattr(archive, "draw_view", leaking)
    _, low, _ = leak(unlit_studies(1200, seed=9), _off_the_json)
    assert low > 0.5


def test_the_command_draws_as_it_is_told(tmp_path: Path) -> None:
    options = [
        "--studies",
        "6",
        "--train-studies",
        "4",
        "--seed",
        "3",
        "--close-up",
        "2",
        "--lesion-shares",
        "0",
        "0",
        "1",
    ]
    done = CliRunner().invoke(app, ["demo", str(tmp_path / "archive"), *options])
    assert done.exit_code == 0, done.output
    with (tmp_path / "archive" / "lesions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert rows and {row["kind"] for row in rows} == {"hardware"}
    assert max(int(row[side]) for row in rows for side in ("width", "height")) <= 256
    labels = {
        split: (tmp_path / "archive" / f"{split}_labeled_studies.csv").read_text() for split in ("valid", "train")
    }
    assert [text.count("\n") for text in labels.values()] == [6, 4]


@pytest.mark.parametrize("shares", [(0.5, 0.2, 0.2), (1.2, -0.1, -0.1), (math.nan, 0.5, 0.5)])
def test_shares_that_are_none_are_refused(shares: tuple[float, ...]) -> None:
    with pytest.raises(UsageError, match="lesion_shares must be"):
        DemoPlan(1, seed=0, lesion_shares=shares)
