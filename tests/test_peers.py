"""The contest with peers: real scripts on a few views, in processes of their own."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import typer

from benchmarks import peers as peers_package
from benchmarks.peers.__main__ import chosen, environments
from benchmarks.peers.catalogue import EXACT, OUR_PIXELS, Choice, Peer, peers
from benchmarks.peers.contest import Course, contest, not_there
from benchmarks.peers.page_cache import cached_share, evict
from benchmarks.peers.runs import Reference, Run, RunFailed, Weights, watched
from benchmarks.peers.script import views_of
from benchmarks.peers.tell import table
from benchmarks.peers.torch_network import export, load
from benchmarks.peers.tuning import tune
from mura_trt.bench.sample import link_views
from mura_trt.bundle import Bundle
from mura_trt.checkpoint import load_checkpoint, save_checkpoint
from mura_trt.model import MuraNet

ALL = {peer.name: peer for peer in peers(2)}
RATES = {"a": 1.0, "b": 3.0, "x": 0.0, "y": 1.0}


@pytest.fixture(scope="module")
def reference(archive: Path, checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Reference, Path]:
    folder = tmp_path_factory.mktemp("three") / "views"
    link_views(archive, folder, 3)
    return Reference(folder, checkpoint), folder


@pytest.mark.slow
def test_a_contest_tells_times_of_right_scores_alone(
    reference: tuple[Reference, Path], bundle: Bundle, checkpoint: Path, model: MuraNet, tmp_path: Path
) -> None:
    """Eager PyTorch and ONNX Runtime run; the same with another head, and what is missing, get no times."""
    other = MuraNet()
    other.load_state_dict(model.state_dict())
    with torch.no_grad():
        other.classifier.bias.add_(0.1)
    save_checkpoint(other, tmp_path / "other.safetensors")
    export(checkpoint, tmp_path / "graph.onnx")
    right, folder = reference
    course = Course(folder, folder, Weights(checkpoint, bundle.folder, tmp_path / "graph.onnx"), right)
    eager = replace(ALL["eager"], base=("--threads", "1", "--batch", "2"), axes=())
    wrong = replace(eager, name="wrong", base=(*eager.base, "--checkpoint", str(tmp_path / "other.safetensors")))
    plain = replace(ALL["ort_plain"], axes=((("--batch", "2"),),))
    missing = replace(plain, name="missing", needs=("no_such_library",))

    found = contest(course, [eager, wrong, plain, missing], rounds=1)

    rates = {name: told.get("views_per_s") for name, told in found["peers"].items()}
    assert rates["wrong"] is None and "differ from the reference" in found["peers"]["wrong"]["failed"]
    assert rates["missing"] is None and "requirements-onnxruntime.txt" in found["peers"]["missing"]["not_run"]
    for name in ("eager", "ort_plain"):
        told = found["peers"][name]
        assert told["dp_max"] <= EXACT.largest and told["peak_gb"] > 0.1
        (run,) = told["runs"]
        assert 0 < 3 / run["views_per_s"] < run["wall_s"]
        ours = [one["views_per_s"] for one in found["ours"]["runs"]]
        assert told["ours_to_peer"]["median"] == pytest.approx(sum(ours) / 2 / run["views_per_s"], rel=1e-2)
    assert len(ours) == 2
    lines = table(found).splitlines()
    assert len(lines) == 7 and "no time" in lines[-2] and "not run" in lines[-1]


def test_scores_that_are_off_missing_or_no_numbers_are_told(reference: tuple[Reference, Path]) -> None:
    right, folder = reference
    studies = right.studies(folder)
    first = next(iter(studies))
    assert right.differ(studies, folder, EXACT) == 0
    assert right.differ({**studies, first: studies[first] + 0.002}, folder, OUR_PIXELS) == pytest.approx(0.002)
    count = len(studies)
    fewer = {study: value for study, value in studies.items() if study != first}
    for spoilt, told in (
        ({**studies, first: studies[first] + 0.002}, r"differ from the reference by 0\.002 at the most and"),
        ({**studies, first: float("nan")}, "differ from the reference by nan at the most and nan on average"),
        (fewer, f"^{count - 1} studies, of which {count - 1} are right; wanted {count}$"),
        ({**studies, "another": 0.5}, f"^{count + 1} studies, of which {count} are right; wanted {count}$"),
    ):
        with pytest.raises(RunFailed, match=told):
            right.differ(spoilt, folder, EXACT)


def rated(options: Choice) -> Run:
    """Two axes that add up; ``x`` fails beside ``b``."""
    if options == ("b", "x"):
        raise RunFailed("its scores are off")
    return Run(options, sum(RATES[option] for option in options), 1.0, 1.0, 0.0)


def test_tuning_goes_along_each_axis_and_keeps_all_it_tried() -> None:
    peer = Peer("made", "", "", axes=((("a",), ("b",)), (("x",), ("y",))))
    sweep = tune(peer, rated)
    assert [run.options for run in sweep.tried] == [("a", "x"), ("a", "y")]  # b fails with x, so that a stays
    peer = Peer("made", "", "", axes=((("a",), ("b",)), (("y",), ("x",))))
    sweep = tune(peer, rated)
    assert sweep.best is not None and sweep.best.options == ("b", "y")
    assert [record["options"] for record in sweep.record()] == ["a y", "b y", "b x"]
    assert "failed" in sweep.record()[-1]
    assert [run.options for run in tune(peer, rated, limit=1).tried] == [("a", "y")]


def test_nothing_right_leaves_nothing_to_choose() -> None:
    sweep = tune(Peer("made", "", "", axes=((("b",),), (("x",),))), rated)
    assert sweep.best is None and sweep.failed == {("b", "x"): "its scores are off"}


def test_a_library_that_is_missing_is_told_with_the_way_to_it() -> None:
    lacking = replace(ALL["openvino"], needs=("PIL", "no_such_library.part"))
    assert not_there(lacking) == (
        "not installed (no_such_library.part): pip install -r benchmarks/peers/requirements-openvino.txt"
    )
    assert not_there(ALL["eager"]) is None


def test_each_peer_has_a_script_and_requirements() -> None:
    folder = Path(peers_package.__file__).parent
    for peer in peers(8):
        assert (folder / f"{peer.module}.py").is_file() and (folder / peer.requirements).is_file()
        assert len(set(peer.axes)) == len(peer.axes) and all(len(set(axis)) == len(axis) for axis in peer.axes)


def test_a_command_that_fails_is_told_with_its_last_words() -> None:
    with pytest.raises(RunFailed, match=r"exit code 3: no luck"):
        watched([sys.executable, "-c", "import sys; print('no luck', file=sys.stderr); sys.exit(3)"])


def test_files_leave_the_page_cache(archive: Path, tmp_path: Path) -> None:
    kind = subprocess.run(["stat", "-f", "-c", "%T", str(tmp_path)], capture_output=True, text=True, check=True).stdout
    if kind.strip() == "tmpfs":
        pytest.skip("tmpfs lives in the page cache")
    copies = [tmp_path / f"{number}.png" for number in range(3)]
    for copy, view in zip(copies, views_of(archive), strict=False):
        copy.write_bytes(view.read_bytes())
    assert cached_share(copies) == 1
    evict(copies)
    assert cached_share(copies) == 0


def test_peers_and_environments_are_chosen_by_name() -> None:
    assert [peer.name for peer in chosen("openvino,eager", 2, quick=True)] == ["openvino", "eager"]
    assert {"compiled", "eager"} - {peer.name for peer in chosen(None, 2, quick=True)} == {"compiled"}
    assert environments([f"eager={sys.executable}"], [ALL["eager"]]) == {"eager": sys.executable}
    for given in (["openvino=python"], [f"other={sys.executable}"], ["eager"]):
        with pytest.raises(typer.BadParameter):
            environments(given, [ALL["eager"], ALL["openvino"]])
    with pytest.raises(typer.BadParameter, match="no peer tensorflow"):
        chosen("eager,tensorflow", 2, quick=False)


def test_peers_have_the_layers_in_the_papers_order(checkpoint: Path) -> None:
    ours, theirs = MuraNet(), load(checkpoint)
    names = [
        [name for name, _ in model.features.get_submodule("transition2").named_children()] for model in (ours, theirs)
    ]
    assert names == [["norm", "relu", "pool", "conv"], ["norm", "relu", "conv", "pool"]]
    pixels = torch.randint(0, 256, (1, 320, 320, 1), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        logits = [model(pixels)[1].item() for model in (load_checkpoint(checkpoint), theirs)]
    assert logits[0] == pytest.approx(logits[1], abs=1e-4)
