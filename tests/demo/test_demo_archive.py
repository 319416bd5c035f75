from __future__ import annotations

import csv
import io
import json
import re
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mura_trt.demo import archive
from mura_trt.demo.anatomy import BODY_PARTS
from mura_trt.demo.archive import DemoView, demo_studies, write_archive
from mura_trt.demo.xray import LESION_KINDS, Box
from mura_trt.errors import UsageError


@pytest.fixture(scope="module")
def studies() -> list[list[DemoView]]:
    return list(demo_studies(30, seed=1))


@pytest.fixture
def unlit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Skips the drawing, so that a test can look at thousands of studies."""

    def draw_view(
        rng: np.random.Generator,
        lesion_rng: np.random.Generator,
        body_part: str,
        lesion: str | None,
        size: tuple[int, int],
    ) -> tuple[tuple[int, int], Box | None]:
        return size, Box(0, 0, 1, 1) if lesion else None

    def png(size: tuple[int, int], rgb: bool) -> bytes:
        return json.dumps([*size, rgb]).encode()

    monkeypatch.setattr(archive, "draw_view", draw_view)
    monkeypatch.setattr(archive, "_png", png)


def test_a_study_depends_on_seed_and_position_only(studies: list[list[DemoView]]) -> None:
    assert list(demo_studies(3, seed=1)) == studies[:3]
    assert list(islice(demo_studies(10**6, seed=1), 2)) == studies[:2]
    assert next(demo_studies(1, seed=2)) != studies[0]


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
    drawn = list(demo_studies(3000, seed=0))
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
    def without_label(views: list[DemoView]) -> list[tuple[str, str, bytes]]:
        return [(re.sub("positive|negative", "", view.key), view.body_part, view.png) for view in views]

    mixed = [without_label(views) for views in demo_studies(200, seed=3)]
    monkeypatch.setattr(archive, "ABNORMAL", abnormal)
    assert [without_label(views) for views in demo_studies(200, seed=3)] == mixed


def test_the_label_leaves_the_picture_around_the_lesion_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def drawn(abnormal: float) -> list[DemoView]:
        monkeypatch.setattr(archive, "ABNORMAL", abnormal)
        return [view for views in demo_studies(8, seed=4) for view in views]

    for healthy, hurt in zip(drawn(0.0), drawn(1.0), strict=True):
        pixels = [np.asarray(Image.open(io.BytesIO(view.png)).convert("L"), int) for view in (healthy, hurt)]
        difference = np.abs(pixels[0] - pixels[1])
        assert hurt.box is not None
        difference[hurt.box.y0 : hurt.box.y1, hurt.box.x0 : hurt.box.x1] = 0
        assert difference.max() <= 4


@pytest.mark.usefixtures("unlit")
def test_patients_share_studies_as_in_mura() -> None:
    where = [re.split("[/_]", views[0].study) for views in demo_studies(200, seed=5)]
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
    assert write_archive(root, 12, seed=1) == len(views)
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
    assert header == ["view", "study", "body_part", "kind", "x0", "y0", "x1", "y1"]
    assert rows == [
        [view.key, view.study, view.body_part, view.lesion, *map(str, view.box)] for view in views if view.box
    ]
    assert "Synthetic images" in (root / "README.txt").read_text()
    assert sorted(path.name for path in root.iterdir()) == [
        "README.txt",
        "lesions.csv",
        "valid",
        "valid_image_paths.csv",
        "valid_labeled_studies.csv",
    ]
    assert [path.name for path in root.parent.iterdir()] == ["archive"]


def test_an_empty_root_is_used_and_a_full_one_left_alone(tmp_path: Path) -> None:
    root = tmp_path / "archive"
    root.mkdir()
    write_archive(root, 1, seed=0)
    before = sorted(root.rglob("*"))
    with pytest.raises(UsageError, match=f"{re.escape(str(root))} .*remove it or choose another"):
        write_archive(root, 1, seed=0)
    assert sorted(root.rglob("*")) == before


def test_an_interrupted_run_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(archive, "_png", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_archive(tmp_path / "archive", 2, seed=0)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("studies", [0, -1])
def test_no_studies_are_refused(tmp_path: Path, studies: int) -> None:
    with pytest.raises(UsageError, match="studies must be 1 or more"):
        write_archive(tmp_path / "archive", studies, seed=0)
    with pytest.raises(UsageError, match="studies must be 1 or more"):
        demo_studies(studies, seed=0)


def test_a_negative_seed_is_refused() -> None:
    with pytest.raises(UsageError, match="seed must be 0 or more"):
        demo_studies(1, seed=-1)
