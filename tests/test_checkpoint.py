"""Every layout that people save loads to the same network, and everything else is refused with what is wanted."""

from __future__ import annotations

import pickle
import re
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from mura_trt.checkpoint import load_checkpoint, save_checkpoint
from mura_trt.errors import CheckpointError
from mura_trt.model import MuraNet

State = dict[str, Tensor]


@pytest.fixture(scope="module")
def state() -> State:
    torch.manual_seed(1)
    return {name: tensor.clone() for name, tensor in MuraNet().state_dict().items()}


def prefixed(state: State, prefix: str) -> State:
    return {prefix + name: tensor for name, tensor in state.items()}


def old_names(state: State) -> State:
    return {re.sub(r"(denselayer\d+\.(?:norm|conv))([12])\.", r"\1.\2.", name): value for name, value in state.items()}


def with_sigmoid(state: State) -> State:
    return {name.replace("classifier.", "classifier.0."): value for name, value in state.items()}


def without_counters(state: State) -> State:
    return {name: value for name, value in state.items() if not name.endswith("num_batches_tracked")}


LAYOUTS: dict[str, Callable[[State], object]] = {
    "plain": lambda state: state,
    "ordered": lambda state: OrderedDict(state),
    "state_dict": lambda state: {"state_dict": state, "epoch": 7},
    "model_state_dict": lambda state: {"model_state_dict": state},
    "model": lambda state: {"model": state, "optimizer": {"lr": 1e-4}},
    "data parallel": lambda state: {"state_dict": prefixed(state, "module.")},
    "lightning": lambda state: {"state_dict": prefixed(state, "model.")},
    "data parallel of a wrapper": lambda state: prefixed(state, "module.model."),
    "old names": old_names,
    "old names, data parallel": lambda state: {"state_dict": prefixed(old_names(state), "module.")},
    "sigmoid as a module": with_sigmoid,
    "no counters": without_counters,
    "half precision": lambda state: {name: value.half() for name, value in state.items()},
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layout_loads_to_the_same_network(layout: str, state: State, tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pth"
    torch.save(LAYOUTS[layout](state), path)
    model = load_checkpoint(path)
    assert not model.training
    for name, tensor in without_counters(model.state_dict()).items():
        expected = state[name].half().float() if layout == "half precision" else state[name]
        torch.testing.assert_close(tensor, expected, atol=0, rtol=0)


def test_safetensors_round_trip(state: State, tmp_path: Path) -> None:
    model = MuraNet()
    model.load_state_dict(state)
    save_checkpoint(model, tmp_path / "model.safetensors")
    loaded = load_checkpoint(tmp_path / "model.safetensors").state_dict()
    assert all(torch.equal(loaded[name], state[name]) for name in state)


class Malicious:
    """Unpickles to a call."""

    def __reduce__(self) -> tuple[Callable[[str], object], tuple[str]]:
        return Path.touch, (Path("ran"),)  # type: ignore[return-value]


def test_code_in_a_pickle_is_refused_and_not_run(state: State, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": state, "extra": Malicious()}, tmp_path / "bad.pth")
    with pytest.raises(CheckpointError, match=r"bad\.pth.*more than tensors.*state_dict\(\)"):
        load_checkpoint(tmp_path / "bad.pth")
    (tmp_path / "bare.pth").write_bytes(pickle.dumps(Malicious()))
    with pytest.raises(CheckpointError, match=r"bare\.pth"):
        load_checkpoint(tmp_path / "bare.pth")
    assert not (tmp_path / "ran").exists()


def changed(state: State, **changes: Tensor | None) -> State:
    merged = {**state, **{name.replace("__", "."): value for name, value in changes.items()}}
    return {name: value for name, value in merged.items() if value is not None}


REFUSED: dict[str, tuple[Callable[[State], object], str]] = {
    "ImageNet's head": (
        lambda s: changed(s, classifier__weight=torch.zeros(1000, 1664), classifier__bias=torch.zeros(1000)),
        "1000 outputs.*one output",
    ),
    "missing": (lambda s: changed(s, features__norm5__weight=None), r"1 weights missing \(features.norm5.weight\)"),
    "extra": (lambda s: changed(s, fc__weight=torch.zeros(3)), r"1 not of this network \(fc.weight\)"),
    "another network": (lambda s: {"layer1.0.conv1.weight": torch.zeros(3)}, "846 weights missing.*1 not of this"),
    "another shape": (
        lambda s: changed(s, features__conv0__weight=torch.zeros(64, 1, 7, 7)),
        r"features.conv0.weight has shape \(64, 1, 7, 7\), wanted \(64, 3, 7, 7\)",
    ),
    "NaN": (lambda s: changed(s, classifier__bias=torch.tensor([float("nan")])), "classifier.bias holds NaN"),
    "a tensor": (lambda s: torch.zeros(3), "holds a Tensor; wanted"),
    "no tensors": (lambda s: {"epoch": 3}, "without tensors.*epoch"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_wrong_content_is_refused(case: str, state: State, tmp_path: Path) -> None:
    make, message = REFUSED[case]
    path = tmp_path / "wrong.pth"
    torch.save(make(state), path)
    with pytest.raises(CheckpointError, match=rf"wrong\.pth: .*{message}"):
        load_checkpoint(path)


def test_broken_files_are_refused(state: State, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no such checkpoint"):
        load_checkpoint(tmp_path / "nowhere.pth")
    torch.save(state, tmp_path / "cut.pth")
    (tmp_path / "cut.pth").write_bytes((tmp_path / "cut.pth").read_bytes()[:100_000])
    save_file(state, tmp_path / "cut.safetensors")
    (tmp_path / "cut.safetensors").write_bytes((tmp_path / "cut.safetensors").read_bytes()[:100_000])
    (tmp_path / "text.pth").write_text("view,study\n1,2\n")
    (tmp_path / "empty.pth").touch()
    (tmp_path / "noise.pth").write_bytes(b"PK\3\4" + bytes(range(256)))
    (tmp_path / "pickle.pth").write_bytes(b"\x80\x02" + bytes(range(256)))
    for name in ("cut.pth", "cut.safetensors", "text.pth", "empty.pth", "noise.pth", "pickle.pth"):
        with pytest.raises(CheckpointError, match=re.escape(name)):
            load_checkpoint(tmp_path / name)


HEADLESS: dict[str, Callable[[State], State]] = {
    "ImageNet's": lambda s: changed(s, classifier__weight=torch.zeros(1000, 1664), classifier__bias=torch.zeros(1000)),
    "none": lambda s: changed(s, classifier__weight=None, classifier__bias=None),
    "two outputs behind a sigmoid": lambda s: with_sigmoid(
        changed(s, classifier__weight=torch.zeros(2, 1664), classifier__bias=torch.zeros(2))
    ),
}


@pytest.mark.parametrize("head", HEADLESS)
def test_a_new_head_takes_the_place_of_another_networks(head: str, state: State, tmp_path: Path) -> None:
    path = tmp_path / "features.pth"
    torch.save(HEADLESS[head](state), path)
    with pytest.raises(CheckpointError):
        load_checkpoint(path)
    model = load_checkpoint(path, new_head=True)
    loaded = model.state_dict()
    assert all(torch.equal(loaded[name], state[name]) for name in state if name.startswith("features."))
    assert loaded["classifier.weight"].shape == (1, 1664) and loaded["classifier.weight"].std() > 0
    assert not torch.equal(loaded["classifier.weight"], state["classifier.weight"])


def test_a_head_of_one_output_stays_where_a_new_one_is_allowed(state: State, tmp_path: Path) -> None:
    torch.save(with_sigmoid(state), tmp_path / "whole.pth")
    loaded = load_checkpoint(tmp_path / "whole.pth", new_head=True).state_dict()
    assert all(torch.equal(loaded[name], state[name]) for name in state)


def test_a_new_head_mends_nothing_else(state: State, tmp_path: Path) -> None:
    torch.save(changed(state, features__norm5__weight=None, classifier__weight=None), tmp_path / "wrong.pth")
    with pytest.raises(CheckpointError, match=r"1 weights missing \(features.norm5.weight\)"):
        load_checkpoint(tmp_path / "wrong.pth", new_head=True)


def test_half_precision_halves_the_file_and_rounds_the_weights(state: State, tmp_path: Path) -> None:
    model = MuraNet()
    model.load_state_dict(state)
    state = model.state_dict()
    state["features.norm5.running_var"].fill_(1e6)  # beyond half precision
    save_checkpoint(model, tmp_path / "whole.safetensors", "a note")
    save_checkpoint(model, tmp_path / "half.safetensors", "a note", half=True)
    sizes = [(tmp_path / f"{name}.safetensors").stat().st_size for name in ("whole", "half")]
    assert sizes[1] < 26e6 and sizes[1] < 0.52 * sizes[0]
    loaded = load_checkpoint(tmp_path / "half.safetensors").state_dict()
    for name, tensor in without_counters(state).items():
        assert loaded[name].dtype == torch.float32
        assert torch.equal(loaded[name], tensor if "running_" in name else tensor.half().float())
    assert all(tensor.dtype != torch.float16 for tensor in model.state_dict().values())
