"""Class activation maps: kept with the scores, drawn for those that were chosen, and equal to their definition."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from typer.testing import CliRunner

from mura_trt.archives import list_archive
from mura_trt.archives.folder import FolderSource
from mura_trt.bundle import Bundle
from mura_trt.cli import app
from mura_trt.drawing import Drawer, Sketch
from mura_trt.errors import BundleError, EnvironmentProblem, UsageError
from mura_trt.heatmaps import Choice, heatmap_of_image
from mura_trt.model import MuraNet
from mura_trt.overlay import FULL_SCALE, encoded, overlay
from mura_trt.pixels import decoded_views
from mura_trt.runtimes import SessionOptions, open_session
from mura_trt.score import score
from mura_trt.score_options import ScoreOptions
from tests.bundles import remade
from tests.test_results import LISTING

MAPS = [f"m{at}" for at in range(100)]


def scored(archive: Path, bundle: Bundle, out: Path, **options: Any) -> dict[str, Any]:
    return score(ScoreOptions(archive, bundle.folder, out, **{"runtime": "null", **options}))


def drawn(out: Path) -> pd.DataFrame:
    return pd.read_csv(out / "heatmaps.csv", dtype=dict.fromkeys(MAPS, np.float32))


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_map_is_what_the_network_defines(archive: Path, bundle: Bundle, model: MuraNet, tmp_path: Path) -> None:
    """M(x, y) = sum over k of w_k f_k(x, y), computed in torch from the decoded pixels of the views themselves."""
    wrists = next(archive.rglob("XR_WRIST"))
    run = scored(wrists, bundle, tmp_path / "out", heatmaps="all", runtime="onnxruntime")
    table = drawn(tmp_path / "out")
    views = pd.read_csv(tmp_path / "out/views.csv")
    assert run["heatmaps"] == len(table) == len(views)
    assert table["view"].tolist() == views["view"].tolist()
    maps = table[MAPS].to_numpy().reshape(-1, 10, 10)
    # The mean of the map and the bias make the logit.
    bias = model.classifier.bias.item()
    np.testing.assert_allclose(maps.mean((1, 2)) + bias, views["logit"], atol=1e-4)
    listing = list_archive(wrists)
    (decoded,) = decoded_views(listing.source, listing.references(0, len(listing)), (320, 320))
    with torch.inference_mode():
        features = model.activation(torch.from_numpy(decoded.pixels.copy()))
        defined = torch.einsum("k,nkyx->nyx", model.classifier.weight[0], features).numpy()
    assert np.abs(maps - defined).max() <= 1e-4 * np.abs(defined).max()


@pytest.mark.parametrize(("chosen", "studies"), [("abnormal", None), ("top:3", 3), ("all", 24), ("top:99", 24)])
def test_all_views_of_the_chosen_studies_are_drawn(
    chosen: str, studies: int | None, archive: Path, bundle: Bundle, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    run = scored(archive, bundle, out, heatmaps=chosen)
    table, views, means = drawn(out), pd.read_csv(out / "views.csv"), pd.read_csv(out / "studies.csv")
    wanted = means[means["abnormal"] == 1] if studies is None else means.nlargest(studies, "probability")
    assert set(table["study"]) == set(wanted["study"])
    assert table["view"].tolist() == views[views["study"].isin(wanted["study"])]["view"].tolist()
    assert run["heatmaps"] == len(table) > 0
    assert sorted(table["file"]) == sorted(path.relative_to(out).as_posix() for path in out.rglob("*.jpg"))
    with Image.open(out / table["file"][0]) as picture:
        assert (picture.size, picture.format) == ((320, 320), "JPEG")
    assert (out / "heatmaps").stat().st_mtime_ns <= (out / "run.json").stat().st_mtime_ns


def test_tables_and_scores_are_the_same_with_and_without(archive: Path, bundle: Bundle, tmp_path: Path) -> None:
    scored(archive, bundle, tmp_path / "with", heatmaps="abnormal")
    scored(archive, bundle, tmp_path / "without")
    for name in ("studies.csv", "views.csv", "failures.csv"):
        assert (tmp_path / "with" / name).read_bytes() == (tmp_path / "without" / name).read_bytes()
    assert not (tmp_path / "without/heatmaps.csv").exists()


def test_a_run_that_goes_on_draws_what_it_would_have(copied: Path, bundle: Bundle, tmp_path: Path) -> None:
    options = {"heatmaps": "abnormal", "shard_views": 8}
    scored(copied, bundle, tmp_path / "whole", **options)
    expected = tree(tmp_path / "whole/heatmaps") | {"table": (tmp_path / "whole/heatmaps.csv").read_bytes()}

    def found() -> dict[str, bytes]:
        return tree(tmp_path / "out/heatmaps") | {"table": (tmp_path / "out/heatmaps.csv").read_bytes()}

    scored(copied, bundle, tmp_path / "out", **options)
    for shard in sorted((tmp_path / "out/shards").iterdir())[::2]:
        shard.unlink()
    run = scored(copied, bundle, tmp_path / "out", resume=True)  # with the run's own choice
    assert 0 < run["resumed_views"] < run["listed"]
    assert found() == expected
    # What is new is scored, the rest comes with its maps.
    new = copied / "XR_WRIST/patient99999/study1_positive"
    new.mkdir(parents=True)
    (new / "image1.png").write_bytes(next(copied.rglob("*.png")).read_bytes())
    run = scored(copied, bundle, tmp_path / "out", update=True)
    assert run["resumed_views"] == run["listed"] - 1
    scored(copied, bundle, tmp_path / "anew", **options)
    assert found() == tree(tmp_path / "anew/heatmaps") | {"table": (tmp_path / "anew/heatmaps.csv").read_bytes()}
    # Another choice of those whose maps are there.
    assert scored(copied, bundle, tmp_path / "out", resume=True, heatmaps="top:1")["heatmaps"] < run["heatmaps"]
    assert len(list((tmp_path / "out").rglob("*.jpg"))) == len(drawn(tmp_path / "out"))
    (tmp_path / "out/heatmaps/mine.jpg").touch()
    scored(copied, bundle, tmp_path / "out", overwrite=True)
    assert [path.name for path in (tmp_path / "out").rglob("*.jpg")] == ["mine.jpg"]
    with pytest.raises(UsageError, match=r"kept no class activation maps.*--overwrite"):
        scored(copied, bundle, tmp_path / "out", resume=True, heatmaps="all")


def test_views_that_fail_are_not_drawn(copied: Path, bundle: Bundle, tmp_path: Path) -> None:
    bad = sorted(copied.rglob("*.png"))[3]
    bad.write_bytes(b"no picture")
    run = scored(copied, bundle, tmp_path / "out", heatmaps="all", table_format="parquet")
    table = pd.read_parquet(tmp_path / "out/heatmaps.parquet")
    assert run["failed"] == 1
    assert len(table) == run["scored"]
    assert bad.relative_to(copied).as_posix() not in set(table["view"])


def test_a_view_that_has_gone_since_is_told(
    copied: Path, bundle: Bundle, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    scored(copied, bundle, tmp_path / "out", heatmaps="all")
    gone = sorted(copied.rglob("*.png"))[3]
    data = gone.read_bytes()
    gone.unlink()
    gone.write_bytes(b"no picture")
    run = scored(copied, bundle, tmp_path / "out", heatmaps="all", resume=True)
    assert run["heatmaps"] == run["scored"] - 1
    assert "a view that was scored has no heatmap" in caplog.text
    gone.write_bytes(data)


def test_a_shard_without_a_score_costs_the_others_no_picture(copied: Path, bundle: Bundle, tmp_path: Path) -> None:
    for damaged in sorted(copied.rglob("*.png"))[3::20]:
        damaged.write_bytes(b"no picture")
    run = scored(copied, bundle, tmp_path / "out", heatmaps="all", shard_views=1)
    assert run["heatmaps"] == run["scored"] == run["listed"] - run["failed"] == len(drawn(tmp_path / "out"))
    assert run["failed"] > 1


def test_pictures_are_not_drawn_into_the_archive(copied: Path, bundle: Bundle) -> None:
    with pytest.raises(UsageError, match="lies in the archive, where heatmaps would count as views"):
        scored(copied, bundle, copied / "out", heatmaps="all")
    assert not (copied / "out").exists()
    assert scored(copied, bundle, copied / "out")["failed"] == 0  # tables are no views
    assert scored(copied, bundle, copied / "out", overwrite=True)["failed"] == 0


def test_what_stops_the_drawing_costs_no_score(
    archive: Path, bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(self: Drawer, sketches: list[Sketch]) -> Iterator[int]:
        raise EnvironmentProblem("the process that draws heatmaps died")

    with monkeypatch.context() as patched:
        patched.setattr(Drawer, "draw", stop)
        with pytest.raises(EnvironmentProblem, match="died"):
            scored(archive, bundle, tmp_path / "out", heatmaps="top:2")
    told = json.loads((tmp_path / "out/run.json").read_text())
    assert told["heatmaps"] is None and told["scored"] == told["listed"]
    assert not (tmp_path / "out/heatmaps.csv").exists()
    run = scored(archive, bundle, tmp_path / "out", resume=True)
    assert run["heatmaps"] == len(drawn(tmp_path / "out")) > 0
    assert json.loads((tmp_path / "out/run.json").read_text()) == run
    assert run["stage_s"]["heatmaps"] > 0


@pytest.mark.parametrize("text", ["", "some", "top", "top:0", "top:-1", "all:3", "abnormal "])
def test_choices_that_mean_nothing_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="give abnormal, all or top:N"):
        Choice.parsed(text)


def test_choices_of_studies_of_which_some_have_no_score() -> None:
    probability = np.full(len(LISTING), 0.4, np.float32)
    probability[LISTING.study_of == 1] = 0.9
    probability[LISTING.study_of == 4] = np.nan
    probability[0] = np.nan

    def studies(text: str) -> list[int]:
        views = Choice.parsed(text).views(LISTING, probability, 0.5)
        assert not np.isnan(probability[views]).any()
        return sorted(set(LISTING.study_of[views].tolist()))

    assert studies("abnormal") == [1]
    assert studies("all") == studies("top:9") == [0, 1, 2, 3]
    assert studies("top:2") == [0, 1]  # of equal ones the first


def test_the_overlay_colors_the_peak_and_leaves_the_rest(pixels: NDArray[np.uint8]) -> None:
    gray = pixels[0, ..., 0]
    cam = np.full((10, 10), -1.0, np.float32)
    assert np.array_equal(overlay(gray, cam), np.repeat(gray[..., None], 3, 2))  # nothing speaks for abnormal
    cam[2, 7] = 10.0
    picture = overlay(gray, cam).astype(int)
    colored = np.abs(picture - gray[..., None]).max(2)
    row, column = np.unravel_index(colored.argmax(), colored.shape)
    assert (row // 32, column // 32) == (2, 7)
    assert colored[128:].max() == colored[:, :160].max() == 0
    assert picture[80, 240, 0] > picture[80, 240, 2]
    faint = np.where(cam > 0, FULL_SCALE / 4, -1).astype(np.float32)
    assert 0 < np.abs(overlay(gray, faint).astype(int) - gray[..., None]).max() < colored.max() / 2


def test_the_command_draws_one_image(archive: Path, bundle: Bundle, model: MuraNet, tmp_path: Path) -> None:
    image = sorted(archive.rglob("*.png"))[2]
    command = ["heatmap", str(image), "--engine", str(bundle.folder), "--runtime", "onnxruntime"]
    done = CliRunner().invoke(app, [*command, "-o", str(tmp_path / "a.png"), "--json"])
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    (decoded,) = decoded_views(FolderSource(str(image.parent)), [os.fsencode(image.name)], (320, 320))
    session, _ = open_session("onnxruntime", bundle, SessionOptions(batch=1))
    scores = session.run(decoded.pixels)
    assert scores.cam is not None and np.ptp(scores.cam) > 0.1
    cam = np.array(told["map"], np.float32)
    np.testing.assert_allclose(cam, scores.cam[0], atol=1e-4)
    assert cam.mean() + model.classifier.bias.item() == pytest.approx(told["logit"], abs=1e-4)
    assert (tmp_path / "a.png").read_bytes() == encoded(overlay(decoded.pixels[0, ..., 0], cam), "PNG")
    assert told["probability"] == pytest.approx(1 / (1 + np.exp(-told["logit"])), abs=1e-6)
    assert session.name == told["runtime"]
    session.close()
    plain = CliRunner().invoke(app, [*command, "-o", str(tmp_path / "a.jpg")])
    assert f"probability {told['probability']:.4f}" in plain.stdout
    for arguments, message in (
        ([str(image), "--engine", str(bundle.folder), "-o", str(tmp_path / "a.gif")], "a .jpg or .png file"),
        ([str(tmp_path / "absent.png"), "--engine", str(bundle.folder)], "absent.png: No such file"),
        ([str(tmp_path / "a.txt"), "--engine", str(bundle.folder)], "a.txt"),
    ):
        (tmp_path / "a.txt").write_text("no picture")
        wrong = CliRunner().invoke(app, ["heatmap", *arguments])
        assert wrong.exit_code == 2
        assert message in wrong.output


def test_a_heatmap_does_not_take_the_image_s_place(make_png: Callable[[str], Path], tmp_path: Path) -> None:
    """Told before the bundle is looked at, which is none."""
    image = make_png("a.png")
    (tmp_path / "link.png").symlink_to(image)
    before = image.read_bytes()
    for out, message in (
        ("a.png", "which is read; name another file for the heatmap"),
        ("link.png", "which is read"),
        ("absent/a.png", "absent is no folder that can be written to; make it"),
    ):
        with pytest.raises(UsageError, match=message):
            heatmap_of_image(image, tmp_path / "no bundle", tmp_path / out)
    assert image.read_bytes() == before


def test_a_heatmap_asks_for_proof_as_scoring_does(archive: Path, bundle: Bundle, tmp_path: Path) -> None:
    image = sorted(archive.rglob("*.png"))[2]
    unproven = remade(bundle, tmp_path / "unproven", parity=None)
    with pytest.raises(BundleError, match=r"never compared.*--allow-unproven"):
        heatmap_of_image(image, unproven.folder, tmp_path / "a.png", "null")
    with pytest.raises(UsageError, match="--runtime foo: choose from"):
        heatmap_of_image(image, unproven.folder, tmp_path / "a.png", "foo", allow_unproven=True)
    assert not (tmp_path / "a.png").exists()
    command = ["heatmap", str(image), "--engine", str(unproven.folder), "--runtime", "null", "--allow-unproven"]
    done = CliRunner().invoke(app, [*command, "-o", str(tmp_path / "a.jpeg")])
    assert done.exit_code == 0, done.output
    with Image.open(tmp_path / "a.jpeg") as picture:
        assert picture.format == "JPEG"
