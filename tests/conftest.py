"""What the tests share: a synthetic archive, a network whose scores spread, and a bundle built from it."""

from __future__ import annotations

import importlib.util
import logging
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from filelock import FileLock
from numpy.typing import NDArray
from PIL import Image

from mura_trt.bundle import Bundle
from mura_trt.checkpoint import save_checkpoint
from mura_trt.cuda_devices import cuda_device_count
from mura_trt.demo.archive import DemoPlan, demo_studies, write_archive
from mura_trt.model import MuraNet
from mura_trt.score import score
from mura_trt.score_options import ScoreOptions
from tests import cores

ON_SIGTERM = signal.getsignal(signal.SIGTERM)
STUDIES = 24
# The head of the tests' network is random, and makes much of small differences; a few views show that it is no worse.
# A GPU box may be without it: its tests that need no plan run all the same.
BUILDER = "tensorrt-rtx" if importlib.util.find_spec("tensorrt_rtx") else "none"
RECIPE = f"""
precision = "fp16"
builder = "{BUILDER}"
check_views = 12
[parity.model]
dp_mean = 0.01
dp_max = 0.03
"""


# Files that take long; where several processes run tests they come first, or one of them would be the only one at work
# in the end. Slow tests of the first wait for nodes that die, and leave the cores to others. The first of `make test`
# needs the bundle, and the next two do not, which then wait for nobody.
LONG = (
    "test_ray.py", "test_slow.py", "test_typed.py", "test_slow_precision.py", "test_fused.py", "test_offline.py",
    "test_score.py", "test_resnet.py", "test_zoo.py", "test_compare.py", "test_doctor.py", "test_devices.py",
    "test_soak.py", "test_drawing.py", "test_loop.py", "test_bench.py", "test_flight.py", "test_reference.py",
    "test_challenge.py", "test_heatmaps.py", "test_nightly_run.py",
)  # fmt: skip


# What runs in processes of its own is counted where tests are about that, and not in all the others, which start a
# thousand more: counting takes each 0.1 s (and a second where it loads much).
IN_CHILDREN = (
    "test_worker.py", "test_devices.py", "test_drawing.py", "test_doctor.py", "test_cli.py", "test_ray.py",
)  # fmt: skip
COUNTING = "COVERAGE_PROCESS_CONFIG"  # of the environment, by which coverage.py counts in processes, too


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts what takes long first, and skips tests marked ``gpu`` where there is none, with the reason."""
    items.sort(key=lambda item: LONG.index(item.path.name) if item.path.name in LONG else len(LONG))
    if cuda_device_count() == 0:
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="no NVIDIA GPU here"))


@pytest.fixture
def all_cores() -> Iterator[None]:
    """All cores that there are, for a test that is about them."""
    os.sched_setaffinity(0, cores.ALL)
    yield
    os.sched_setaffinity(0, cores.MINE)


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    """The command sets a log level and a handler for its process: where that is a test's, they end with the test."""
    yield
    logging.disable(logging.NOTSET)
    logging.getLogger("mura_trt").setLevel(logging.NOTSET)
    signal.signal(signal.SIGTERM, ON_SIGTERM)


@pytest.fixture(autouse=True, scope="module")
def children_counted(request: pytest.FixtureRequest) -> Iterator[None]:
    """Has coverage be counted in processes of the tests in :data:`IN_CHILDREN` only."""
    with pytest.MonkeyPatch.context() as patch:
        if request.path.name not in IN_CHILDREN:
            patch.delenv(COUNTING, raising=False)
        yield


@pytest.fixture(scope="session")
def demo() -> Path:
    """What ``make demo`` leaves; not to be changed."""
    folder = Path(__file__).parent.parent / "demo"
    if not (folder / "out" / "run.json").exists():
        pytest.fail("run make demo first")
    return folder


@pytest.fixture(scope="session")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A synthetic archive in MURA's layout; not to be changed."""
    root = tmp_path_factory.mktemp("data") / "archive"
    write_archive(root, DemoPlan(STUDIES, seed=3))
    return root


def read_like_pillow(png: Path) -> NDArray[np.uint8]:
    """uint8 (320, 320, 1): a view as Pillow decodes and resizes it."""
    with Image.open(png) as image:
        resized = image.convert("L").resize((320, 320), Image.Resampling.BILINEAR)
    return np.asarray(resized)[..., None]


@pytest.fixture(scope="session")
def pixels(archive: Path) -> NDArray[np.uint8]:
    """uint8 (12, 320, 320, 1): views of the archive."""
    return np.stack([read_like_pillow(path) for path in sorted(archive.rglob("*.png"))[::5][:12]])


def set_batch_norms(network: MuraNet, pixels: NDArray[np.uint8]) -> None:
    """Gives every batch norm the statistics of real activations, layer by layer in one forward pass."""
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1.0
    network.train()
    with torch.no_grad():
        network(torch.from_numpy(pixels))
    network.eval()


def spread(network: MuraNet, pixels: NDArray[np.uint8]) -> MuraNet:
    """The network, ready to score, with a random head under which the logits of these views spread by about a half."""
    network.eval()
    set_batch_norms(network, pixels)
    with torch.inference_mode():
        features = network.activation(torch.from_numpy(pixels)).mean((2, 3))
    with torch.no_grad():
        weight = torch.randn(1, features.shape[1])
        logits = features @ weight.T
        network.classifier.weight.copy_(weight / (2 * logits.std()))
        network.classifier.bias.copy_(-logits.mean() / (2 * logits.std()))
    return network


@pytest.fixture(scope="session")
def model(pixels: NDArray[np.uint8]) -> MuraNet:
    """A random network whose batch norms know the synthetic views and whose logits spread by about a half."""
    torch.manual_seed(0)
    return spread(MuraNet(), pixels)


@pytest.fixture(scope="session")
def checkpoint(model: MuraNet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The network as a safetensors file."""
    path = tmp_path_factory.mktemp("checkpoint") / "model.safetensors"
    save_checkpoint(model, path)
    return path


@pytest.fixture(scope="session")
def bundle(checkpoint: Path, archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """An FP16 bundle with a TensorRT-RTX plan, built as a user builds it; not to be changed."""
    own = tmp_path_factory.getbasetemp()
    shared = own.parent if "PYTEST_XDIST_WORKER" in os.environ else own  # by all processes that run tests
    out = shared / "bundle" / "engine"
    with FileLock(shared / "bundle.lock"):
        if not out.exists():
            out.parent.mkdir(exist_ok=True)  # by a process that came no further
            recipe = out.parent / "densenet169-fp16.toml"
            recipe.write_text(RECIPE)
            command = [sys.executable, "-m", "mura_trt", "build-engine", str(recipe), "--checkpoint", str(checkpoint)]
            environment = {name: value for name, value in os.environ.items() if name != COUNTING}
            subprocess.run([*command, "--calibrate", str(archive), "-o", str(out)], check=True, env=environment)
    return Bundle.open(out)


@pytest.fixture(scope="session")
def clean(archive: Path, bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a run of the archive by one worker with ``null`` leaves; not to be changed."""
    out = tmp_path_factory.mktemp("clean") / "out"
    score(ScoreOptions(archive, bundle.folder, out, runtime="null"))
    return out


@pytest.fixture
def copied(archive: Path, tmp_path: Path) -> Path:
    """A copy of the archive that a test may spoil."""
    target = tmp_path / "archive"
    shutil.copytree(archive, target)
    return target


@pytest.fixture(scope="session")
def png_files() -> list[bytes]:
    """PNG bytes of a dozen synthetic views."""
    return [view.png for study in demo_studies(DemoPlan(5, seed=5)) for view in study][:12]


@pytest.fixture
def make_png(tmp_path: Path) -> Callable[[str], Path]:
    """Writes a small gray PNG at a path below the test's folder."""

    def make(name: str) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((120, 90), 77, np.uint8)).save(path)
        return path

    return make
