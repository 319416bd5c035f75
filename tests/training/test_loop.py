"""Training as a user runs it: it learns, goes on from a kill to the same bits, keeps the best, names what is wrong."""

from __future__ import annotations

import csv
import logging
import math
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor

from mura_trt.checkpoint import load_checkpoint, save_checkpoint
from mura_trt.errors import EnvironmentProblem, MuraTrtError, UsageError
from mura_trt.metrics import Estimate, auroc, cohen_kappa
from mura_trt.model import MuraNet
from mura_trt.training import run as run_module
from mura_trt.training.catalogue import read_catalogue
from mura_trt.training.folder import TrainingFolder
from mura_trt.training.loop import first_model, train
from mura_trt.training.options import TrainOptions
from mura_trt.training.run import Run
from mura_trt.training.views import load_views
from tests.training import add_study, noise_archive, study_name

LEFT = {"recipe.json", "log.csv", "curves.png", "skipped.csv", "validation.csv"}  # beside the kept weights


class Stopped(Exception):
    """Ends a run from within, as an interrupt does."""


@pytest.fixture(scope="module", autouse=True)
def torch_as_before() -> Iterator[None]:
    """Undoes what train() sets for its process."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)
    torch.set_flush_denormal(False)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """12 training views and 4 to validate on; not to be changed."""
    return noise_archive(tmp_path_factory.mktemp("small") / "archive", 12, 4, size=32, seed=1)


def tiny(archive: Path, out: Path, **changes: Any) -> TrainOptions:
    """Options of a run of two epochs of two steps."""
    out.parent.mkdir(exist_ok=True)
    chosen = TrainOptions(archive, out, size=32, epochs=2, batch=6, learning_rate=1e-3, device="cpu", save_minutes=1e9)
    return replace(chosen, **changes)


def silent(line: str) -> None:
    pass


def stopped_at(words: str) -> Callable[[str], None]:
    """A report that ends the run at the line that holds the words."""

    def report(line: str) -> None:
        if words in line:
            raise Stopped

    return report


def read_log(options: TrainOptions) -> list[dict[str, float]]:
    with (options.folder / "log.csv").open(newline="") as file:
        return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]


def assert_same(one: Path, other: Path) -> None:
    first, second = load_file(one), load_file(other)
    assert first.keys() == second.keys()
    different = [name for name in first if not torch.equal(first[name], second[name])]
    assert not different


# --- it learns ---


@pytest.fixture(scope="module")
def overfitted(tmp_path_factory: pytest.TempPathFactory) -> tuple[TrainOptions, dict[str, Any], list[str]]:
    """16 views of noise, learned by heart, written in half precision: options, what train() returned, its report."""
    folder = tmp_path_factory.mktemp("overfitted")
    archive = noise_archive(folder / "archive", 16, 4, size=64, seed=0)
    options = TrainOptions(
        archive=archive,
        out=folder / "model.safetensors",
        size=64,
        epochs=12,
        batch=8,
        learning_rate=1e-3,
        rotation=0,
        patience=100,
        stop_after=100,
        keep=3,
        device="cpu",
        half=True,
    )
    lines: list[str] = []
    return options, train(options, lines.append), lines


Overfitted = tuple[TrainOptions, dict[str, Any], list[str]]


@pytest.mark.slow
def test_it_learns_16_images_by_heart(overfitted: Overfitted) -> None:
    losses = [row["train_loss"] for row in read_log(overfitted[0])]
    assert len(losses) == 12
    assert losses[0] > 0.15  # half of ln 2, the weights being a half, is what guessing costs
    assert min(losses) < 0.05


@pytest.mark.slow
def test_half_precision_is_a_small_file_of_the_best_weights(overfitted: Overfitted) -> None:
    options, found, _ = overfitted
    assert options.out.stat().st_size < 26e6
    state = load_checkpoint(options.out).state_dict()
    best = load_file(options.folder / f"epoch-{found['best_epoch']:03d}.safetensors")
    for name, tensor in best.items():
        assert torch.equal(state[name], tensor if "running_" in name else tensor.half().float()), name


@pytest.mark.slow
def test_what_lies_beside_the_weights(overfitted: Overfitted) -> None:
    options, found, _ = overfitted
    rows = read_log(options)
    ranked = sorted(rows, key=lambda row: row["valid_loss"])
    kept = {f"epoch-{int(row['epoch']):03d}.safetensors" for row in ranked[:3]}
    assert {path.name for path in options.folder.iterdir()} == LEFT | kept
    assert (found["epochs"], found["best_epoch"]) == (12, int(ranked[0]["epoch"]))
    best = ranked[0]
    for name in ("auroc", "kappa"):
        logged = [best[name + end] for end in ("", "_low", "_high")]
        assert isinstance(found[name], Estimate) and logged == pytest.approx(list(found[name]), rel=1e-5, nan_ok=True)


@pytest.mark.slow
def test_validation_csv_has_the_probabilities_of_the_kept_weights(overfitted: Overfitted) -> None:
    options, found, _ = overfitted
    table = pd.read_csv(options.folder / "validation.csv")
    assert table.columns.tolist() == ["study", "body_part", "label", "probability", "ensemble"]
    assert table["study"].tolist() == [study_name("valid", n, n % 2 == 1) for n in range(1000, 1004)]
    assert table["body_part"].tolist() == ["WRIST"] * 4 and table["label"].tolist() == [0, 1, 0, 1]
    views = load_views(read_catalogue(options.archive, 0.1, 0), 64, options.out.parent, lambda done, total: None)
    images = torch.from_numpy(views.pixels[views.valid])
    ranked = sorted(read_log(options), key=lambda row: row["valid_loss"])[:3]
    each = []
    with torch.inference_mode():
        for row in ranked:
            model = load_checkpoint(options.folder / f"epoch-{int(row['epoch']):03d}.safetensors")
            each.append(model(images)[0].numpy())
    np.testing.assert_allclose(table["probability"], each[0], atol=2e-5)
    np.testing.assert_allclose(table["ensemble"], np.mean(each, 0), atol=2e-5)
    assert found["ensemble_auroc"].value == auroc(table["label"], np.mean(each, 0)).value
    assert found["ensemble_kappa"].value == cohen_kappa(table["label"], np.mean(each, 0) > 0.5).value


@pytest.mark.slow
def test_the_report_tells_decoding_and_every_step(overfitted: Overfitted) -> None:
    lines = overfitted[2]
    assert lines[0] == "decoded 20 of 20 views"
    steps = [line for line in lines if line.startswith("epoch ")]
    assert len(steps) == 12 * 2
    assert steps[3].startswith("epoch 2 of 12, step 2 of 2, loss 0.") and "views/s" in steps[3]
    assert f"loss {read_log(overfitted[0])[1]['train_loss']:.4f}," in steps[3]


# --- it goes on ---


def command(archive: Path, out: Path, *more: str) -> list[str]:
    options = ["--size", "32", "--epochs", "2", "--batch", "4", "--device", "cpu", "--seed", "5"]
    return [sys.executable, "-m", "mura_trt", "train", str(archive), "-o", str(out), *options, *more]


def wait_for_saves(process: subprocess.Popen[str], state: Path, saves: int) -> None:
    """Returns when the state was saved so often, or the process has ended."""
    seen, last = 0, state.stat().st_mtime_ns if state.exists() else 0
    while process.poll() is None and seen < saves:
        time.sleep(0.005)
        now = state.stat().st_mtime_ns if state.exists() else last
        seen, last = seen + (now != last), now


@pytest.mark.slow
def test_killed_and_resumed_ends_in_the_same_bits(tmp_path: Path) -> None:
    archive = noise_archive(tmp_path / "archive", 24, 4, size=32, seed=1)
    straight, broken = (tmp_path / name / "model.safetensors" for name in ("straight", "broken"))
    straight.parent.mkdir()
    broken.parent.mkdir()
    whole = subprocess.run(command(archive, straight), capture_output=True, text=True, check=False)
    assert whole.returncode == 0, whole.stderr
    assert "of 2 is best" in whole.stdout and "AUROC" in whole.stdout and "kappa" in whole.stdout
    assert str(straight) in whole.stdout and str(tmp_path / "straight" / "model-training") in whole.stdout

    seed = random.randrange(1 << 30)
    print(f"seed of the kills: {seed}")
    chance = random.Random(seed)
    state = tmp_path / "broken" / "model-training" / "state.pt"
    for attempt in range(2):  # of 14 savings in all
        with subprocess.Popen(
            command(archive, broken, "--save-minutes", "0", *(["--resume"] if attempt else [])),
            stderr=subprocess.DEVNULL,
            text=True,
        ) as process:
            wait_for_saves(process, state, chance.randint(1, 3))
            time.sleep(chance.uniform(0, 0.5))
            process.kill()
        assert process.returncode == -9, "ended before it was killed"
        assert state.exists() and not broken.exists()
    resumed = subprocess.run(command(archive, broken, "--resume"), capture_output=True, text=True, check=False)
    assert resumed.returncode == 0, resumed.stderr
    assert "going on from epoch" in resumed.stderr

    assert_same(straight, broken)
    folders = [path.parent / "model-training" for path in (straight, broken)]
    names = [sorted(path.name for path in folder.iterdir()) for folder in folders]
    assert names[0] == names[1] == sorted([*LEFT, "epoch-001.safetensors", "epoch-002.safetensors"])
    for name in ("epoch-001.safetensors", "epoch-002.safetensors"):
        assert_same(folders[0] / name, folders[1] / name)
    logs = [pd.read_csv(folder / "log.csv").drop(columns="views_per_s") for folder in folders]
    pd.testing.assert_frame_equal(logs[0], logs[1], check_exact=True)
    assert (folders[0] / "validation.csv").read_bytes() == (folders[1] / "validation.csv").read_bytes()
    first, second = load_file(folders[0] / "epoch-001.safetensors"), load_file(folders[0] / "epoch-002.safetensors")
    assert not torch.equal(first["features.conv0.weight"], second["features.conv0.weight"])


@pytest.fixture(scope="module")
def stopped(small: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainOptions:
    """A run that was stopped behind its first step; tests may look at it and fail to take it up."""
    options = tiny(small, tmp_path_factory.mktemp("stopped") / "model.safetensors", save_minutes=0)
    with pytest.raises(Stopped):
        train(options, stopped_at("step 1 of"))
    return options


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 1}, "seed 0, now 1"),
        ({"batch": 4}, "batch 6, now 4"),
        ({"learning_rate": 1e-4}, "learning_rate 0.001, now 0.0001"),
        ({"rotation": 5.0, "patience": 3}, "rotation 30.0, now 5.0; patience 1, now 3"),
    ],
    ids=["seed", "batch", "learning rate", "two"],
)
def test_another_recipe_is_not_gone_on_with(change: dict[str, Any], message: str, stopped: TrainOptions) -> None:
    with pytest.raises(UsageError, match=f"the run began with {message}: give it what it began with"):
        train(replace(stopped, resume=True, **change), silent)


@pytest.mark.slow
def test_another_start_is_not_gone_on_with(stopped: TrainOptions, overfitted: Overfitted) -> None:
    with pytest.raises(UsageError, match=r"init random weights, now [0-9a-f]{64}"):
        train(replace(stopped, resume=True, init=overfitted[0].out), silent)


def test_an_unfinished_run_is_not_begun_anew_unasked(stopped: TrainOptions) -> None:
    before = (stopped.folder / "state.pt").read_bytes()
    with pytest.raises(UsageError, match=r"has not ended: --resume .* --overwrite"):
        train(stopped, silent)
    assert (stopped.folder / "state.pt").read_bytes() == before


def test_an_output_is_not_replaced_unasked_and_is_when_asked(small: Path, tmp_path: Path) -> None:
    options = tiny(small, tmp_path / "o" / "model.safetensors", epochs=1, batch=12, save_minutes=0)
    options.out.write_bytes(b"precious")
    for resume in (False, True):
        with pytest.raises(UsageError, match=r"model\.safetensors or the records .* are there already: --overwrite"):
            train(replace(options, resume=resume), silent)
    assert options.out.read_bytes() == b"precious"
    options.out.unlink()
    with pytest.raises(Stopped):
        train(options, stopped_at("step 1 of"))
    (options.folder / "epoch-099.safetensors").write_bytes(b"of an older run")
    lines: list[str] = []
    train(replace(options, overwrite=True, seed=3), lines.append)
    assert any("step 1 of 1" in line for line in lines)
    load_checkpoint(options.out)
    assert not (options.folder / "epoch-099.safetensors").exists()


def test_a_run_that_replaces_another_and_is_killed_before_it_kept_anything_goes_on(small: Path, tmp_path: Path) -> None:
    options = tiny(small, tmp_path / "model.safetensors", overwrite=True)
    options.folder.mkdir()
    options.out.write_bytes(b"an earlier run's")
    (options.folder / "log.csv").write_text("an earlier run's")
    TrainingFolder(options).open({"seed": "0"})  # and no more
    again = replace(options, overwrite=False)
    with pytest.raises(UsageError, match="are there already"):
        TrainingFolder(again).open({"seed": "0"})
    TrainingFolder(replace(again, resume=True)).open({"seed": "0"})


def end_epoch_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ends a run between the saving of an epoch's state and the records of it."""

    def dies(run: Run) -> None:
        raise Stopped

    monkeypatch.setattr(Run, "write_records", dies)


def test_records_are_whole_also_where_the_last_epochs_end_was_cut_off(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = tiny(small, tmp_path / "model.safetensors", epochs=1, batch=12)
    with monkeypatch.context() as patch:
        end_epoch_is_killed(patch)
        with pytest.raises(Stopped):
            train(options, silent)
    train(replace(options, resume=True), silent)
    assert len(read_log(options)) == 1


# --- it keeps the best ---


@pytest.mark.slow
def test_the_best_are_kept_the_rate_falls_and_training_stops(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses = [1.0, 0.8, 0.9, 0.85, 0.7, 0.95, 0.9, 0.9]
    rng = np.random.default_rng(0)
    said: list[NDArray[np.float64]] = []
    weights: list[Tensor] = []

    def validate(run: Run) -> tuple[float, NDArray[np.float64]]:
        said.append(rng.random(4))
        weights.append(run.model.state_dict()["features.conv0.weight"].clone())
        return losses[run.at.epoch], said[-1]

    monkeypatch.setattr(Run, "validate", validate)
    options = tiny(
        small, tmp_path / "model.safetensors", epochs=20, batch=12, patience=1, stop_after=3, keep=3, learning_rate=1e-3
    )
    most: list[int] = []

    def report(line: str) -> None:
        most.append(len(list(options.folder.glob("epoch-*.safetensors"))))

    found = train(options, report)
    rows = read_log(options)
    assert [row["valid_loss"] for row in rows] == losses  # the eighth epoch is the third without a lower loss
    # Epochs 3 and 4 were no better than 2, and 6 and 7 no better than 5.
    assert [row["learning_rate"] for row in rows] == pytest.approx([1e-3] * 4 + [1e-4] * 3 + [1e-5], rel=1e-6)
    assert (found["epochs"], found["best_epoch"]) == (8, 5)
    kept = sorted(path.name for path in options.folder.glob("epoch-*.safetensors"))
    assert kept == [f"epoch-{n:03d}.safetensors" for n in (2, 4, 5)]
    assert max(most) == 3
    assert_same(options.out, options.folder / "epoch-005.safetensors")
    for number in (2, 4, 5):
        state = load_file(options.folder / f"epoch-{number:03d}.safetensors")
        assert torch.equal(state["features.conv0.weight"], weights[number - 1])
    table = pd.read_csv(options.folder / "validation.csv")
    np.testing.assert_allclose(table["probability"], said[4], atol=1e-6)
    np.testing.assert_allclose(table["ensemble"], (said[1] + said[3] + said[4]) / 3, atol=1e-6)


def test_the_weights_count_in_both_losses(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    for split, first in (("train", 0), ("valid", 100)):
        for patient in range(first, first + 8):
            view = rng.integers(0, 256, (32, 32), np.uint8)
            add_study(tmp_path / "archive", study_name(split, patient, patient % 4 == 0), view)
    options = tiny(tmp_path / "archive", tmp_path / "o" / "model.safetensors", batch=8, rotation=0.0)
    run = prepared(options)
    loss, probability = run.validate()
    # 2 of 8 are abnormal: they count 3/4, and the others 1/4.
    cost = [-0.75 * math.log(p) if n % 4 == 0 else -0.25 * math.log(1 - p) for n, p in enumerate(probability)]
    assert loss == pytest.approx(np.mean(cost), rel=1e-4)
    with torch.no_grad():
        run.model.classifier.weight.zero_()
        run.model.classifier.bias.fill_(1.5)
    run.train_epoch(silent)
    p = 1 / (1 + math.exp(-1.5))
    expected = (2 * 0.75 * -math.log(p) + 6 * 0.25 * -math.log(1 - p)) / 8
    assert run.at.loss / 8 == pytest.approx(expected, rel=1e-5)


def test_a_run_goes_on_with_more_to_keep_than_it_began_with(small: Path, tmp_path: Path) -> None:
    options = tiny(small, tmp_path / "model.safetensors", epochs=4, batch=12, keep=1)
    with pytest.raises(Stopped):
        train(options, stopped_at("epoch 4 of 4"))
    train(replace(options, keep=3, resume=True), silent)
    kept = list(options.folder.glob("epoch-*.safetensors"))
    assert 1 <= len(kept) <= 2 and len(read_log(options)) == 4


# --- where it starts ---


def test_it_starts_from_imagenets_features(small: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    torch.manual_seed(9)
    state = {name: tensor.clone() for name, tensor in MuraNet().state_dict().items()}
    state["classifier.weight"], state["classifier.bias"] = torch.randn(1000, 1664), torch.randn(1000)
    torch.save(state, tmp_path / "densenet169.pth")
    options = tiny(small, tmp_path / "o" / "model.safetensors", init=tmp_path / "densenet169.pth")
    run = prepared(options)
    own = run.model.state_dict()
    assert all(torch.equal(own[name], tensor) for name, tensor in state.items() if name.startswith("features."))
    assert own["classifier.weight"].shape == (1, 1664) and own["classifier.weight"].std() > 0
    assert not [record for record in caplog.records if "random weights" in record.getMessage()]
    heads = [first_model(replace(options, seed=seed)).classifier.weight for seed in (0, 1)]
    assert torch.equal(heads[0], own["classifier.weight"]) and not torch.equal(heads[0], heads[1])
    run.train_epoch(silent)
    assert not torch.equal(run.model.state_dict()["features.conv0.weight"], state["features.conv0.weight"])


def test_without_a_checkpoint_it_warns_and_the_seed_decides(
    small: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    options = tiny(small, tmp_path / "o" / "model.safetensors")
    first = [first_model(replace(options, seed=seed)).state_dict()["features.conv0.weight"] for seed in (0, 0, 1)]
    assert torch.equal(first[0], first[1]) and not torch.equal(first[0], first[2])
    assert any(
        "random weights" in record.getMessage() for record in caplog.records if record.levelno == logging.WARNING
    )


@pytest.mark.parametrize("name", ["model-training/epoch-001.safetensors", "model-training/other.safetensors"])
def test_overwrite_leaves_the_checkpoint_that_it_starts_from(small: Path, tmp_path: Path, name: str) -> None:
    init = tmp_path / name
    init.parent.mkdir()
    save_checkpoint(MuraNet(), init)
    before = init.read_bytes()
    with pytest.raises(UsageError, match="--overwrite would remove it"):
        train(tiny(small, tmp_path / "model.safetensors", init=init, overwrite=True), silent)
    assert init.read_bytes() == before


def unlabelled(root: Path) -> Path:
    add_study(root, "XR_HAND/patient00001/study1", np.zeros((40, 40), np.uint8))
    return root


def one_class(root: Path) -> Path:
    for patient in range(9):
        add_study(root, study_name("", patient, True), np.zeros((40, 40), np.uint8))
    return root


@pytest.mark.parametrize(
    ("archive", "changes", "message"),
    [
        (lambda root: root, {}, "no such folder"),
        (unlabelled, {}, "no label"),
        (one_class, {}, "needs both"),
        (lambda root: noise_archive(root, 12, 4, 32, 1), {"init": Path("typo.pth")}, r"typo\.pth"),
    ],
    ids=["nowhere", "unlabelled", "one class", "init"],
)
def test_a_wrong_input_costs_no_earlier_run(
    tmp_path: Path, archive: Callable[[Path], Path], changes: dict[str, Any], message: str
) -> None:
    options = tiny(archive(tmp_path / "archive"), tmp_path / "model.safetensors", overwrite=True, **changes)
    options.folder.mkdir()
    left = [options.out, options.folder / "epoch-001.safetensors", options.folder / "log.csv"]
    for path in left:
        path.write_bytes(b"an earlier run's")
    with pytest.raises(UsageError, match=message):
        train(options, silent)
    assert all(path.read_bytes() == b"an earlier run's" for path in left)


def test_records_of_an_earlier_run_are_not_taken_over(small: Path, tmp_path: Path) -> None:
    options = tiny(small, tmp_path / "model.safetensors")
    options.folder.mkdir()
    (options.folder / "log.csv").write_text("an earlier run's")
    with pytest.raises(UsageError, match="are there already"):
        train(options, silent)
    assert (options.folder / "log.csv").read_text() == "an earlier run's"


def test_records_within_the_archive_are_refused(small: Path) -> None:
    with pytest.raises(UsageError, match="lies inside the archive"):
        train(tiny(small, small / "model.safetensors"), silent)


# --- what a step takes ---


def prepared(options: TrainOptions) -> Run:
    """The run before its first step."""
    options.folder.mkdir()
    catalogue = read_catalogue(options.archive, 0.1, 0)
    views = load_views(catalogue, options.size, options.folder, lambda done, total: None)
    return Run(options, TrainingFolder(options), views, first_model(options), "cpu")


def test_every_step_is_augmented_anew(small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[float, float]] = []

    def recorded(images: Tensor, rng: np.random.Generator, degrees: float) -> Tensor:
        seen.append((degrees, float(rng.random())))
        return images.float()

    monkeypatch.setattr(run_module, "augment", recorded)
    run = prepared(tiny(small, tmp_path / "model.safetensors", rotation=12.5))
    for _ in range(2):
        run.end_epoch(run.train_epoch(silent))
    assert {degrees for degrees, _ in seen} == {12.5}
    assert len({draw for _, draw in seen}) == len(seen) == 4


def test_an_epoch_of_so_many_views_takes_others_each_time(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = prepared(tiny(small, tmp_path / "model.safetensors", epoch_views=4, batch=4))
    taken: list[list[int]] = []

    def step(rows: NDArray[np.int64]) -> float:
        taken.append(sorted(rows.tolist()))
        return 0.5

    monkeypatch.setattr(run, "_step", step)
    monkeypatch.setattr(run, "validate", lambda: (0.1, np.array([0.2, 0.8, 0.2, 0.8])))
    rows = [run.end_epoch(run.train_epoch(silent)) for _ in range(3)]
    assert [len(rows) for rows in taken] == [4, 4, 4] and len({tuple(rows) for rows in taken}) > 1
    assert set().union(*map(set, taken)) <= set(run.views.train.tolist())
    assert [row.train_loss for row in rows] == [0.5, 0.5, 0.5]


def test_bf16_mixes_precisions_and_keeps_weights_and_scores_in_fp32(small: Path, tmp_path: Path) -> None:
    plain = prepared(tiny(small, tmp_path / "plain.safetensors"))
    mixed = prepared(tiny(small, tmp_path / "mixed.safetensors", precision="bf16"))
    seen: list[torch.dtype] = []
    mixed.model.features[3].register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    (plain_loss, plain_scores), (loss, scores) = plain.validate(), mixed.validate()
    assert set(seen) == {torch.bfloat16}
    assert loss == pytest.approx(plain_loss, rel=0.02) and loss != plain_loss
    np.testing.assert_allclose(scores, plain_scores, atol=0.02)
    rows = mixed.views.train[:6]
    assert mixed._step(rows) == pytest.approx(plain._step(rows), rel=0.05)
    assert {weight.dtype for weight in mixed.model.parameters()} == {torch.float32}
    first, other = (run.model.state_dict()["features.conv0.weight"] for run in (mixed, plain))
    assert not torch.equal(first, other)
    assert torch.allclose(first, other, atol=2.1e-3)  # Adam's first step is one rate at the most, either way


# --- what is wrong ---


def test_divergence_ends_in_words(small: Path, tmp_path: Path) -> None:
    options = tiny(small, tmp_path / "model.safetensors", learning_rate=1e30)
    with pytest.raises(MuraTrtError, match=r"the loss is (nan|inf) in epoch 1, after step 2: .*--learning-rate"):
        train(options, silent)
    assert not options.out.exists()


def test_divergence_in_an_epochs_last_step_ends_in_words(small: Path, tmp_path: Path) -> None:
    options = tiny(small, tmp_path / "model.safetensors", learning_rate=1e30, batch=12)
    with pytest.raises(MuraTrtError, match=r"epoch 1.*--learning-rate"):
        train(options, silent)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"size": 48}, "--size 48: a multiple of 32"),
        ({"size": 0}, "--size 0: a multiple of 32"),
        ({"size": -32}, "--size -32: a multiple of 32"),
        ({"epochs": 0}, "--epochs 0: 1 or more"),
        ({"epoch_views": 1}, "--epoch-views 1: 2 or more"),
        ({"batch": 3}, "--batch 3: 4 or more"),
        ({"learning_rate": 0.0}, "--learning-rate 0.0: a number above 0"),
        ({"learning_rate": -1e-4}, "--learning-rate -0.0001: a number above 0"),
        ({"learning_rate": math.nan}, "--learning-rate nan: a number above 0"),
        ({"validation_share": 0.0}, "--validation-share 0.0: above 0, below 1"),
        ({"validation_share": 1.0}, "--validation-share 1.0: above 0, below 1"),
        ({"seed": -1}, "--seed -1: 0 or more"),
        ({"device": "gpu"}, "--device gpu: auto, cpu or cuda"),
        ({"precision": "int8"}, "--precision int8: auto, fp32, fp16, bf16"),
        ({"out": Path("model.pth")}, r"model\.pth: name the output \*\.safetensors"),
        ({"resume": True, "overwrite": True}, "--resume and --overwrite: choose one"),
        ({"rotation": -1.0}, "--rotation -1.0"),
        ({"rotation": math.nan}, "--rotation nan"),
        ({"patience": -1}, "--patience -1"),
        ({"stop_after": 0}, "--stop-after 0"),
        ({"keep": 0}, "--keep 0"),
        ({"learning_rate": math.inf}, "--learning-rate inf: a number above 0"),
        ({"save_minutes": math.nan}, "--save-minutes nan"),
    ],
    ids=str,
)
def test_options_that_cannot_be_are_refused(change: dict[str, Any], message: str) -> None:
    good = TrainOptions(Path("archive"), Path("model.safetensors"))
    with pytest.raises(UsageError, match=message):
        replace(good, **change)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_device_that_is_missing_is_named(small: Path, tmp_path: Path) -> None:
    with pytest.raises(EnvironmentProblem, match="--device cuda"):
        train(tiny(small, tmp_path / "o" / "model.safetensors", device="cuda"), silent)
    assert not list((tmp_path / "o").iterdir())


@pytest.mark.parametrize("wrong", ["folder", "option", "checkpoint"])
def test_the_command_line_says_what_is_wrong_in_a_line(wrong: str, small: Path, tmp_path: Path) -> None:
    archive = tmp_path / "nowhere" if wrong == "folder" else small
    more = {"folder": [], "option": ["--size", "50"], "checkpoint": ["--init", "nothing.pth"]}[wrong]
    told = {"folder": "no such folder", "option": "--size 50", "checkpoint": "nothing.pth: no such checkpoint"}[wrong]
    done = subprocess.run(
        command(archive, tmp_path / "m.safetensors", *more), capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr.startswith("mura-trt: ") and done.stderr.count("\n") == 1 and told in done.stderr
    assert done.stdout == ""
