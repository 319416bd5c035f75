"""The fused forward pass, its kernels run by Triton's interpreter on the CPU: what it computes, not how fast.

The interpreter is chosen when Triton is imported, and for a whole process: tests on a GPU need it off.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.tiles import best
from mura_trt.fused import Tiles

ROOT = Path(__file__).resolve().parent.parent

# Differences from the module in FP32, of a network and of an ensemble of two, on pictures whose borders are as good as
# all of them. Of an ensemble and of an overflow fewer layers tell as much, which take the interpreter less time.
PROGRAM = """
import json
import torch
from mura_trt.fused import fused
from mura_trt.model import ARCHITECTURES, Ensemble, MuraNet

ARCHITECTURES["shallow"] = (6, 4, 4, 4)

def network(seed, architecture="densenet121"):
    torch.manual_seed(seed)
    made = MuraNet(architecture).eval()
    for module in made.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
            module.weight.data.uniform_(0.5, 1.5)
            module.bias.data.normal_(0, 0.1)
    # Red has another mean than gray: what the border is padded with then matters.
    made.features.conv0.weight.data[:, 0] += 0.1
    return made

pixels = torch.randint(0, 256, (2, 32, 64, 1), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
pixels[0] = 255  # nothing in it but its border
shallow = [network(11, "shallow"), network(12, "shallow")]  # whose logits are not near 0
found = {}
with torch.inference_mode():
    for name, one in {"one": network(1), "ensemble": Ensemble(shallow)}.items():
        forward = fused(one)
        if name == "ensemble":
            forward(pixels.flip(0))  # what it leaves in its memory makes no difference
        outputs, expected = forward(pixels), one(pixels)
        assert [output.shape for output in outputs] == [there.shape for there in expected]
        found[name] = [
            float((output - there).abs().max() / there.abs().max()) for output, there in zip(outputs, expected)
        ]
    too_large = network(3, "shallow")
    too_large.features.denseblock1.denselayer2.conv2.weight.data *= 1e6
    found["overflow"] = [bool(output.isnan().all()) for output in fused(too_large)(pixels)[:2]]
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def found() -> Any:
    pytest.importorskip("triton", reason="Triton is for Linux alone")
    # Without coverage, with which Triton's interpreter takes more than twice as long.
    environment = {**os.environ, "TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": "", "COVERAGE_PROCESS_CONFIG": ""}
    done = subprocess.run([sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("network", ["one", "ensemble"])
def test_outputs_are_the_networks_own_but_for_half_precision(network: str, found: Any) -> None:
    probability, logit, cam = found[network]
    assert probability < 1e-4
    assert logit < 1e-3
    assert cam < 3e-3


def test_an_overflow_of_half_precision_is_no_number(found: Any) -> None:
    assert found["overflow"] == [True, True]


def test_channels_that_tiles_do_not_divide_are_no_silent_nonsense() -> None:
    pytest.importorskip("triton", reason="Triton is for Linux alone")
    from mura_trt.fused import Pointwise, pointwise

    weights = Pointwise(*(torch.zeros(shape) for shape in ((256,), (256,), (256, 96), (96,))))
    with pytest.raises(AssertionError, match="96 channels in tiles of 128"):
        pointwise(torch.zeros(8, 256), weights, torch.zeros(8, 96), 4, Tiles().pointwise[0])


def test_the_usual_tiles_are_the_fastest_that_were_measured() -> None:
    measured = json.loads((ROOT / "benchmarks" / "results" / "acceptance-h100.json").read_text())
    assert best(measured["tiles"]["tiles_us_a_view"]) == Tiles()
