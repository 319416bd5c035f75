"""``mura-trt doctor``: the truth about this machine, and about ones that are broken."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import os
import platform
import re
import resource
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
import tomllib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnxruntime
import pandas as pd
import psutil
import pytest
import torch

import mura_trt
from mura_trt import cuda_devices, fused_kernels, tables
from mura_trt.bundle import Bundle, write_manifest
from mura_trt.cores import usable_cores
from mura_trt.cuda_devices import Driver, cuda_device_count, cuda_driver, gpu_kind, nvidia_cards
from mura_trt.doctor import packages, probes, run, toolchain
from mura_trt.doctor.environment import described
from mura_trt.doctor.finding import ABSENT, PROBLEM, UNKNOWN, WORKS, Finding
from mura_trt.doctor.network import with_plan, write_bundle
from mura_trt.doctor.process import ask
from mura_trt.doctor.run import Check, checks, examine
from mura_trt.doctor.tell import table, verdict
from mura_trt.memory import memory
from mura_trt.plan import unsupported
from mura_trt.runtimes import AUTO, RUNTIMES

no_gpu = pytest.mark.skipif(cuda_device_count() > 0, reason="tells what is found where there is no GPU")
ROOT = Path(__file__).parent.parent
STUBS = "tests.doctor_probes"
ALWAYS = {"driver", "packages", "view", "tables", "bundle", "decode-png", "decode-cpu", "decode-gpu", "pycuda"}
TRIED = set(RUNTIMES) - {"null"}


class Told(NamedTuple):
    code: int
    found: dict[str, Any]
    errors: str
    processor_seconds: float


def processor_seconds() -> float:
    """Of this process's children that have ended."""
    spent = resource.getrusage(resource.RUSAGE_CHILDREN)
    return spent.ru_utime + spent.ru_stime


def doctor(*arguments: object, **variables: str) -> Told:
    """The command as a user types it."""
    before = processor_seconds()
    command = [sys.executable, "-m", "mura_trt", "doctor", "--json", *map(str, arguments)]
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=ROOT, check=False, env={**os.environ, **variables}
    )
    assert done.stdout, done.stderr
    return Told(done.returncode, json.loads(done.stdout), done.stderr, processor_seconds() - before)


@pytest.fixture(scope="module")
def here() -> Told:
    return doctor()


def only(*names: str) -> Callable[[Path, Path | None], Sequence[Check]]:
    """Some of doctor's checks."""
    return lambda folder, engine: [check for check in checks(folder, engine) if check.name in names]


def stub(name: str, function: str, /, **arguments: object) -> Check:
    return Check(name, f"{STUBS}:{function}", "pip install thing", arguments)


# --- this machine ---


def test_this_machine_can_score_and_the_command_says_so(here: Told) -> None:
    assert here.code == 0
    assert here.found["can_score"] is True
    assert here.found["exit_code"] == 0
    assert {"onnxruntime", "torch"} <= set(here.found["runtimes"])
    before = processor_seconds()
    for _ in range(10):
        subprocess.run([sys.executable, "-c", "pass"], check=True)
    assert here.processor_seconds < 40 * (processor_seconds() - before) + 10  # 17 s where it takes 4
    assert "Traceback" not in here.errors


def test_keys_are_those_documented(here: Told) -> None:
    assert set(here.found) == {"schema", "can_score", "exit_code", "runtimes", "environment", "engine", "checks"}
    assert set(here.found["checks"]) == ALWAYS | TRIED | {"plan-tensorrt", "plan-tensorrt_rtx"}
    for name, check in here.found["checks"].items():
        assert set(check) == {"status", "found", "mend", "seconds"}, name
        assert check["status"] in (WORKS, PROBLEM, ABSENT, UNKNOWN), name
        assert check["mend"] or check["status"] != PROBLEM, name
    assert here.found["engine"] is None


def test_runtimes_that_score_are_those_of_auto_and_torch() -> None:
    assert (*AUTO, "torch") == run.SCORING


def test_every_library_here_was_tried_and_works(here: Told) -> None:
    status = {name: check["status"] for name, check in here.found["checks"].items()}
    working = (
        "view",
        "tables",
        "bundle",
        "packages",
        "decode-png",
        "decode-cpu",
        "onnxruntime",
        "emulated",
        "torch",
    )
    assert {name: status[name] for name in working} == dict.fromkeys(working, WORKS)
    gpu = gpu_kind()
    assert status["plan-tensorrt_rtx"] == (ABSENT if gpu and unsupported("tensorrt-rtx", gpu) else WORKS)
    assert "is right, |dp|" in here.found["checks"]["onnxruntime"]["found"]


@no_gpu
def test_without_a_gpu_what_needs_one_is_absent_and_no_problem(here: Told) -> None:
    for name in ("driver", "decode-gpu", "torch_cuda", "torch_fused", "pycuda", "tensorrt", "tensorrt_rtx"):
        assert here.found["checks"][name]["status"] == ABSENT, name
    assert here.found["environment"]["gpus"] == []
    assert "To mend" not in table(here.found)


@pytest.mark.gpu
def test_on_a_gpu_what_uses_it_works(here: Told) -> None:
    checks, kind = here.found["checks"], gpu_kind()
    for name in ("driver", "decode-gpu", "torch_cuda", "torch_fused", "pycuda"):
        assert checks[name]["status"] == WORKS, checks[name]
    assert kind is not None
    assert checks["tensorrt_rtx"]["status"] == (ABSENT if unsupported("tensorrt-rtx", kind) else WORKS)
    (gpu, *_) = here.found["environment"]["gpus"]
    properties = torch.cuda.get_device_properties(0)
    assert gpu["name"] == properties.name
    assert gpu["compute_capability"] == f"{properties.major}.{properties.minor}"
    assert 0 < gpu["free_bytes"] <= gpu["memory_bytes"]


def test_environment_is_the_truth(here: Told) -> None:
    said = here.found["environment"]
    assert set(said) == {
        "mura_trt", "python", "os", "processor", "cores", "memory", "disk", "driver", "cuda", "gpu",
        "compute_capability", "gpus", "versions",
    }  # fmt: skip
    assert (said["mura_trt"], said["python"]) == (mura_trt.__version__, platform.python_version())
    assert said["cores"]["usable"] == usable_cores()
    assert said["cores"]["affinity"] == len(os.sched_getaffinity(0))
    assert said["memory"]["total_bytes"] == pytest.approx(psutil.virtual_memory().total, rel=0.01)
    assert 0 < said["memory"]["available_bytes"] <= said["memory"]["total_bytes"]
    for name, path in (("work", str(ROOT)), ("shm", "/dev/shm")):
        assert said["disk"][name]["path"] == path
        assert said["disk"][name]["free_bytes"] == pytest.approx(shutil.disk_usage(path).free, rel=0.2)
    assert said["versions"]["numpy"] == np.__version__
    assert said["versions"]["onnxruntime"] == onnxruntime.__version__
    assert "torch" in said["versions"] and "nvidia-dali-cuda130" in said["versions"]
    assert "pytest" not in said["versions"]


def test_table_shows_every_check_and_keeps_to_the_width(here: Told) -> None:
    text = table(here.found)
    assert all(f"\n{name} " in text for name in here.found["checks"])
    assert max(map(len, text.splitlines())) <= 120
    assert text.endswith("Scoring works here with " + ", ".join(here.found["runtimes"]) + ".") or cuda_device_count()


# --- a user's bundle ---


def test_a_bundle_is_tried_in_place_of_the_tiny_one(bundle: Bundle) -> None:
    told = doctor("--engine", bundle.folder)
    assert told.code == 0
    found = told.found["checks"]
    assert set(found) == ALWAYS | TRIED | {"plan"}
    assert found["torch"]["status"] == found["onnxruntime"]["status"] == found["emulated"]["status"] == WORKS
    assert "is what onnxruntime says" in found["torch"]["found"]
    engine = told.found["engine"]
    assert set(engine) == {"folder", "name", "precision", "proof", "builder", "suits_gpu"}
    assert (engine["name"], engine["precision"]) == (bundle.manifest.name, "fp16")
    assert engine["builder"]["name"] == "tensorrt-rtx"
    if cuda_device_count() == 0:
        assert engine["suits_gpu"] is None
        assert "no GPU here to load it on" in found["plan"]["found"]


def test_a_damaged_bundle_is_told_with_the_way_out(bundle: Bundle, tmp_path: Path) -> None:
    damaged = tmp_path / "engine"
    shutil.copytree(bundle.folder, damaged)
    (damaged / "model.onnx").write_bytes(b"x" * (damaged / "model.onnx").stat().st_size)
    found = examine(damaged, chosen=only("view", "tables", "bundle", "plan", "decode-png", "decode-cpu", "onnxruntime"))
    assert found["checks"]["bundle"]["status"] == PROBLEM
    assert "model.onnx differs from what was built" in found["checks"]["bundle"]["found"]
    assert "build-engine" in found["checks"]["bundle"]["mend"]
    assert found["checks"]["onnxruntime"]["status"] == UNKNOWN
    assert found["exit_code"] == 5
    assert found["engine"]["suits_gpu"] is None
    assert verdict(found) == "Scoring does not work here: no runtime could be tried."


# --- checks that end badly ---


@pytest.mark.parametrize(
    ("function", "arguments", "told", "mend"),
    [
        ("segfaults", {}, "killed by SIGSEGV; its last words: a library's last words", "this"),
        ("killed", {"number": signal.SIGILL}, "killed by SIGILL", "instructions"),
        ("killed", {"number": signal.SIGKILL}, "killed by SIGKILL", "memory"),
        ("killed", {"number": signal.SIGRTMIN + 5}, f"killed by signal {signal.SIGRTMIN + 5}", "this"),
        ("raises", {}, "ValueError: a library in a bad mood", "this"),
        ("knows_what_is_wrong", {}, "no such thing: pip install thing", "this"),
        ("leaves", {}, "exit code 7", "this"),
        ("ends_badly", {}, "all well; then, when it should have ended: the process was killed by SIGABRT", "this"),
        ("is_not_there", {}, "AttributeError", "this"),
    ],
)
def test_how_a_check_ended_is_what_was_found(
    function: str, arguments: dict[str, int], told: str, mend: str, tmp_path: Path
) -> None:
    finding = ask(f"{STUBS}:{function}", arguments, tmp_path, 60, "do this")
    assert finding.status == PROBLEM
    assert told in finding.found
    assert finding.mend and mend in finding.mend


def test_a_check_that_hangs_is_killed(tmp_path: Path) -> None:
    before = set(psutil.Process().children())
    started = time.monotonic()
    finding = ask(f"{STUBS}:hangs", {}, tmp_path, 2, "do this")
    assert 2 <= time.monotonic() - started < 8
    assert finding.status == PROBLEM
    assert finding.found == "no answer within 2 s"
    assert "nvidia-smi" in (finding.mend or "")
    assert set(psutil.Process().children()) <= before


def alive(process: psutil.Process) -> bool:
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def test_a_check_outlives_ctrl_c_and_not_doctor(tmp_path: Path) -> None:
    ends = time.monotonic() + 60
    code = (
        f"from pathlib import Path; from mura_trt.doctor.process import ask; ask('{STUBS}:waits', {{}}, Path(), 60, '')"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}
    ) as asker:
        while not (tmp_path / "log").exists() or "begun" not in (tmp_path / "log").read_text():
            assert time.monotonic() < ends
            time.sleep(0.05)
        (check,) = psutil.Process(asker.pid).children()
        check.send_signal(signal.SIGINT)  # it reaches the whole group, and is doctor's to decide on
        time.sleep(0.5)
        assert alive(check)
        asker.kill()
    while alive(check):
        assert time.monotonic() < ends
        time.sleep(0.05)


def test_a_check_sees_the_same_modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "only_here.py").write_text("from tests.doctor_probes import works\n")
    assert ask("only_here:works", {}, tmp_path, 60, "do this").status == PROBLEM
    monkeypatch.syspath_prepend(tmp_path)
    assert ask("only_here:works", {"found": "seen"}, tmp_path, 60, "do this").found == "seen"


def test_the_rest_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    limits: list[float] = []

    def asked(probe: str, arguments: dict[str, Any], folder: Path, timeout: float, mend: str) -> Finding:
        limits.append(timeout)
        return ask(probe, arguments, folder, 3.0 if probe.endswith("hangs") else timeout, mend)

    monkeypatch.setattr(run, "ask", asked)
    names: list[str] = []
    stubs = [
        stub("emulated", "segfaults"),
        stub("torch", "hangs"),
        stub("view", "raises"),
        dataclasses.replace(stub("bundle", "works"), needs=("view",)),
        stub("decode-cpu", "works"),
        stub("decode-png", "works"),
        stub("tables", "works"),
        stub("onnxruntime", "works"),
        dataclasses.replace(stub("pycuda", "works"), modules=("no_such_module",)),
    ]
    found = examine(report=names.append, chosen=lambda folder, engine: stubs)
    assert names == ["driver", *(check.name for check in stubs)]
    assert set(limits) == {run.GPU_SECONDS if cuda_device_count() else run.CPU_SECONDS}
    status = {name: check["status"] for name, check in found["checks"].items() if name in names[1:]}
    assert status == {
        "emulated": PROBLEM, "torch": PROBLEM, "view": PROBLEM, "bundle": UNKNOWN, "decode-cpu": WORKS,
        "decode-png": WORKS, "tables": WORKS, "onnxruntime": WORKS, "pycuda": ABSENT,
    }  # fmt: skip
    assert found["checks"]["emulated"]["mend"] == "pip install thing"
    assert found["checks"]["bundle"]["found"] == "cannot be tried without view"
    assert found["checks"]["pycuda"]["mend"] == "pip install no-such-module"
    assert (found["runtimes"], found["can_score"], found["exit_code"]) == (["onnxruntime"], True, 0)
    text = table(found)
    assert "To mend:" in text and "SIGSEGV" in text and "no answer within 3 s" in text


@pytest.mark.parametrize(
    ("broken", "told"),
    [("decode-cpu", "DALI does not decode"), ("decode-png", "PNG files are not decoded"),
     ("tables", "tables cannot be written and read"),
     ("onnxruntime", "no runtime works")],
)  # fmt: skip
def test_what_scoring_cannot_do_without(broken: str, told: str) -> None:
    names = ("decode-cpu", "decode-png", "tables", "onnxruntime")
    stubs = [stub(name, "raises" if name == broken else "works") for name in names]
    found = examine(chosen=lambda folder, engine: stubs)
    assert (found["can_score"], found["exit_code"]) == (False, 5)
    assert verdict(found) == f"Scoring does not work here: {told}."


def test_tables_are_tried_in_every_format_and_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert probes.tables(str(tmp_path)).status == WORKS
    assert sorted(path.name for path in tmp_path.iterdir()) == ["table.csv", "table.parquet"]
    monkeypatch.setattr(tables, "read_names", lambda path: iter([pd.DataFrame({"view": ["x"], "study": ["y"]})]))
    assert probes.tables(str(tmp_path)).status == PROBLEM


@pytest.mark.parametrize("score", [0.71, float("nan")])
def test_a_wrong_score_is_a_problem(score: float) -> None:
    stubs = [
        stub("bundle", "works", expected=0.7, bound=0.005),
        stub("decode-cpu", "works"),
        stub("decode-png", "works"),
        stub("tables", "works"),
        stub("onnxruntime", "works", score=score),
        stub("emulated", "works", score=0.704),
    ]
    found = examine(chosen=lambda folder, engine: stubs)
    assert found["checks"]["onnxruntime"]["status"] == PROBLEM
    assert found["checks"]["onnxruntime"]["found"].startswith("wrong: well: probability")
    assert found["checks"]["emulated"]["status"] == WORKS
    assert found["exit_code"] == 5
    assert verdict(found) == "Scoring does not work here: no runtime works."


def test_of_a_users_bundle_the_others_are_compared_with_onnxruntime(tmp_path: Path) -> None:
    stubs = [
        stub("bundle", "works", expected=None, bound=0.005, name="mine"),
        stub("onnxruntime", "works", score=0.6),
        stub("torch", "works", score=0.7),
    ]
    found = examine(tmp_path, chosen=lambda folder, engine: stubs)
    assert found["checks"]["onnxruntime"]["status"] == WORKS
    assert found["checks"]["torch"]["status"] == PROBLEM
    assert found["engine"]["name"] == "mine"
    assert found["exit_code"] == 5  # nothing decodes


def test_what_dali_says_of_a_sound_file_is_told(tmp_path: Path) -> None:
    probes.view(str(tmp_path))
    assert probes.decode_cpu(str(tmp_path)).status == WORKS
    png = bytearray((tmp_path / probes.PNG).read_bytes())
    png[-3000:-200] = bytes(2800)
    (tmp_path / probes.PNG).write_bytes(png)
    finding = ask("mura_trt.doctor.probes:decode_cpu", {"folder": str(tmp_path)}, tmp_path, 60, "reinstall it")
    assert (finding.status, finding.mend) == (PROBLEM, "reinstall it")
    assert finding.found.startswith("DALI: Failed to decode sample #0")


# --- Triton ---


def test_a_kernel_of_the_fused_runtime_computes_as_pytorch_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "1")  # the same kernel on the CPU
    finding = ask("mura_trt.doctor.probes:triton", {"device": "cpu"}, tmp_path, 60, "do this")
    assert finding.status == WORKS, finding
    assert f"Triton {packages.installed()['triton']}: a kernel of the runtime's on cpu, off" in finding.found


class Planted:
    """In place of a kernel: takes its tiles' grid and arguments, and leaves ``value`` everywhere."""

    def __init__(self, value: float) -> None:
        self.value = value

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
        return lambda *arguments, **how: arguments[5].fill_(self.value)


@pytest.mark.parametrize("value", [0.0, float("nan")])
def test_a_kernel_that_computes_wrong_is_a_problem(value: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fused_kernels, "pointwise", Planted(value))
    finding = probes.triton("cpu")
    assert finding.status == PROBLEM
    assert "off PyTorch by" in finding.found


def on_gpus(driver: str, monkeypatch: pytest.MonkeyPatch, *names: str, engine: Path | None = None) -> dict[str, Any]:
    """Some checks where the driver tells of GPUs."""
    monkeypatch.setenv("LD_LIBRARY_PATH", driver)
    checks: dict[str, Any] = examine(engine, chosen=only(*names))["checks"]
    return checks


def test_a_broken_triton_is_told_with_the_way_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "triton").mkdir()
    (tmp_path / "triton/__init__.py").write_text("raise OSError('libx.so')")
    monkeypatch.syspath_prepend(tmp_path)
    (check,) = only("torch_fused")(tmp_path, None)
    finding = ask(check.probe, {"device": "cpu"}, tmp_path, 60, check.mend)
    assert (finding.status, finding.found) == (PROBLEM, "OSError: libx.so")
    assert finding.mend and "C compiler" in finding.mend and "--force-reinstall triton" in finding.mend


@pytest.mark.parametrize("given", [False, True])
def test_without_triton_its_runtime_is_absent(
    given: bool, driver: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = write_bundle(tmp_path / "tiny").folder if given else None
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "triton" else find_spec(name))
    check = on_gpus(driver, monkeypatch, "torch_fused", engine=engine)["torch_fused"]
    assert (check["status"], check["found"]) == (ABSENT, "not installed: triton")
    assert check["mend"] == "pip install triton"


def test_an_fp32_bundle_has_no_use_for_the_fused_runtime(
    driver: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny = write_bundle(tmp_path / "tiny")
    write_manifest(tiny.folder, dataclasses.replace(tiny.manifest, precision="fp32"))
    found = on_gpus(driver, monkeypatch, "bundle", "torch_fused", engine=tiny.folder)
    assert found["bundle"]["status"] == WORKS, found
    assert found["torch_fused"]["status"] == ABSENT
    assert found["torch_fused"]["found"] == "it computes in half precision, and the bundle is FP32"


# --- libraries that are broken, or installed twice ---


@pytest.mark.parametrize(
    ("module", "source", "check", "told", "mend"),
    [
        ("onnxruntime", "import os; os.kill(os.getpid(), 11)", "onnxruntime", "SIGSEGV", "onnxruntime"),
        ("onnxruntime", "raise ImportError('libx.so')", "onnxruntime", "does not import (libx.so)", "onnxruntime"),
        ("pandas", "raise ImportError('libx.so')", "tables", "ImportError: libx.so", "--force-reinstall pandas"),
        ("pyarrow", "raise ImportError('libx.so')", "tables", "libx.so", "--force-reinstall pandas pyarrow"),
        ("nvidia", "raise ImportError('libx.so')", "decode-cpu", "DALI does not import", "nvidia-dali-cuda130"),
        ("torch", "raise OSError('libx.so')", "torch", "OSError: libx.so", "--force-reinstall torch"),
        ("tensorrt", "raise RuntimeError('no libs')", "plan-tensorrt", "does not import: no libs", "NVIDIA's own"),
        ("tensorrt_rtx", "raise OSError('libx.so')", "plan-tensorrt_rtx", "libx.so", "--force-reinstall tensorrt-rtx"),
    ],
)
def test_a_broken_library_is_told_with_the_way_out(
    module: str, source: str, check: str, told: str, mend: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / module).mkdir(parents=True)
    (tmp_path / module / "__init__.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    found = examine(chosen=only("view", "bundle", check))
    assert found["checks"][check]["status"] == PROBLEM
    assert told in found["checks"][check]["found"]
    assert mend in found["checks"][check]["mend"]
    assert found["exit_code"] == 5
    assert "Scoring does not work here" in table(found)


def test_both_onnxruntimes_in_one_environment_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = tmp_path / "onnxruntime_gpu-1.24.0.dist-info"
    other.mkdir()
    (tmp_path / "half_removed-1.0.dist-info").mkdir()
    (other / "METADATA").write_text("Metadata-Version: 2.1\nName: onnxruntime_gpu\nVersion: 1.24.0\n")
    monkeypatch.syspath_prepend(tmp_path)
    found = examine(chosen=lambda folder, engine: [])
    clash = found["checks"]["packages"]
    assert clash["status"] == PROBLEM
    assert clash["found"].startswith("onnxruntime and onnxruntime-gpu are both installed")
    assert clash["mend"] == "pip uninstall -y onnxruntime onnxruntime-gpu && pip install onnxruntime"
    assert found["environment"]["versions"]["onnxruntime-gpu"] == "1.24.0"
    assert "ONNX Runtime 1.24.0 (onnxruntime-gpu)" in " ".join(table(found).split())


def test_what_scoring_needs_and_is_not_there() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    needed = {re.split("[>=<]", requirement)[0] for requirement in project["dependencies"]} - {"typer"}
    assert packages.judged(dict.fromkeys(needed, "1")).status == WORKS
    for name in needed:
        finding = packages.judged(dict.fromkeys(needed - {name}, "1"))
        assert (finding.status, finding.mend) == (PROBLEM, f"pip install {name}")
    finding = packages.judged(dict.fromkeys({*needed, "onnxruntime-gpu"} - {"onnxruntime"}, "1"))
    assert finding.status == WORKS
    both = dict.fromkeys({*needed, "nvidia-dali-cuda120"}, "1")
    assert "nvidia-dali-cuda120 and nvidia-dali-cuda130 are both" in packages.judged(both).found


@pytest.mark.parametrize(
    ("names", "cuda"),
    [
        (["numpy", "torch"], None),
        (["nvidia-dali-cuda120"], 12),
        (["nvidia-dali-cuda120", "tensorrt-rtx-cu13"], 13),
        (["tensorrt-cu12-libs", "nvidia-cudnn-cu12"], 12),
    ],
)
def test_the_cuda_that_wheels_are_for(names: list[str], cuda: int | None) -> None:
    assert packages.wheels_cuda(names) == cuda


def test_what_building_pycuda_lacks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CPATH", "CPLUS_INCLUDE_PATH", "LIBRARY_PATH", "CXX"):
        monkeypatch.delenv(name, raising=False)
    # A machine of its own, without what distributions and drivers put below /usr here.
    monkeypatch.setattr(toolchain, "Path", lambda path: tmp_path / path.lstrip("/"))
    monkeypatch.setattr(toolchain, "cuda_roots", lambda: [tmp_path / "cuda"])
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    files = {
        "nvcc": tmp_path / "cuda/bin/nvcc",
        "cuda.h": tmp_path / "cuda/include/cuda.h",
        "libcuda.so": tmp_path / "cuda/lib64/stubs/libcuda.so",
        "curand.h": tmp_path / "usr/include/curand.h",
        "a C++ compiler": tmp_path / "bin/g++",
        "Python.h": tmp_path / sysconfig.get_path("include").lstrip("/") / "Python.h",
    }
    assert toolchain.missing_for_pycuda() == list(toolchain.HOW_TO_GET) == list(files)
    for file in files.values():
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch(mode=0o755)
    assert toolchain.missing_for_pycuda() == []
    for part, file in files.items():
        file.unlink()
        assert toolchain.missing_for_pycuda() == [part]
        file.touch(mode=0o755)


# --- drivers ---


LIBCUDA = r"""
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
static int told(const char *name, int otherwise) { return getenv(name) ? atoi(getenv(name)) : otherwise; }
static void *context = (void *)0x700000000000;
int cuInit(unsigned flags) { return told("FAKE_INIT", 0); }
int cuDriverGetVersion(int *version) { *version = told("FAKE_VERSION", 13000); return 0; }
int cuDeviceGetCount(int *count) { *count = 2; return 0; }
int cuDeviceGet(int *device, int ordinal) { *device = ordinal; return 0; }
int cuDeviceGetName(char *name, int size, int device) { strncpy(name, device ? "Second" : "First", size); return 0; }
int cuDeviceTotalMem_v2(size_t *bytes, int device) { *bytes = 85000000000; return 0; }
int cuDeviceGetAttribute(int *value, int which, int device)
{
    *value = which == 75 ? told("FAKE_MAJOR", 12) : which == 76 ? told("FAKE_MINOR", 1) : told("FAKE_MODE", 0);
    return 0;
}
int cuDevicePrimaryCtxRetain(void **given, int device) { *given = context; return device ? 46 : 0; }
int cuDevicePrimaryCtxRelease_v2(int device) { return 0; }
int cuCtxPushCurrent_v2(void *given) { return given == context ? 0 : 201; }
int cuCtxPopCurrent_v2(void **given) { *given = context; return 0; }
int cuMemGetInfo_v2(size_t *free, size_t *total) { *free = 84000000000; *total = 85000000000; return 0; }
int cuGetErrorString(int status, const char **words) { *words = "in these words"; return 0; }
"""


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder with a driver's library that answers as one with two GPUs does, and can compute nothing."""
    folder = tmp_path_factory.mktemp("driver")
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler here")
    (folder / "libcuda.c").write_text(LIBCUDA)
    command = [compiler, "-shared", "-fPIC", "-o", "libcuda.so.1", "libcuda.c"]
    subprocess.run(command, cwd=folder, check=True)
    return str(folder)


def asked(driver: str, monkeypatch: pytest.MonkeyPatch, **variables: str) -> dict[str, Any]:
    for name, value in {"LD_LIBRARY_PATH": driver, **variables}.items():
        monkeypatch.setenv(name, value)
    return examine(chosen=only("plan-tensorrt", "plan-tensorrt_rtx"))


def test_gpus_are_told_as_the_driver_has_them(driver: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found = asked(driver, monkeypatch)
    first = {"name": "First", "compute_capability": "12.1", "memory_bytes": 85 * 10**9, "free_bytes": 84 * 10**9}
    said = found["environment"]
    assert said["gpus"] == [first, {**first, "name": "Second", "free_bytes": None}]
    assert (said["cuda"], said["gpu"], said["compute_capability"]) == ("13.0", "First", "12.1")
    assert found["checks"]["driver"]["status"] == WORKS


def test_kind_of_a_gpu_is_the_drivers(driver: str) -> None:
    code = "from mura_trt.cuda_devices import gpu_kind as k; print(k(), k(1).name, k(1).architecture, k(2))"
    environment = {**os.environ, "LD_LIBRARY_PATH": driver}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "GpuKind(name='First', compute_capability=(12, 1)) Second SM121 None"


def test_several_processes_have_room_where_a_gpu_is_not_one_processs_own(driver: str) -> None:
    code = "from mura_trt.cuda_devices import room; print(room(), room(1), room(2))"
    for variables, told in (({}, "84000000000 0 0"), ({"FAKE_MODE": "3"}, "0 0 0"), ({"FAKE_INIT": "100"}, "0 0 0")):
        environment = {**os.environ, "LD_LIBRARY_PATH": driver, **variables}
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
        assert done.stdout.strip() == told


def test_a_driver_too_old_for_the_wheels_is_a_problem(driver: str, monkeypatch: pytest.MonkeyPatch) -> None:
    check = asked(driver, monkeypatch, FAKE_VERSION="12040")["checks"]["driver"]
    assert check["status"] == PROBLEM
    assert "CUDA 12.4 is too old for the wheels here, which are for CUDA 13" in check["found"]
    assert check["mend"] == "install driver 580 or later"


def test_a_driver_that_refuses_is_told_in_its_words(driver: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found = asked(driver, monkeypatch, FAKE_INIT="803")
    assert found["checks"]["driver"]["status"] == PROBLEM
    assert "cuInit: error 803 (in these words)" in found["checks"]["driver"]["found"]
    assert found["environment"]["gpus"] == []
    assert asked(driver, monkeypatch, FAKE_INIT="100")["checks"]["driver"]["status"] == ABSENT  # it counts none


@pytest.mark.skipif(importlib.util.find_spec("tensorrt") is not None, reason="TensorRT, which supports the GPU")
def test_a_gpu_that_tensorrt_rtx_does_not_support_wants_tensorrt(driver: str, monkeypatch: pytest.MonkeyPatch) -> None:
    refusal = "TensorRT-RTX does not support First (compute capability 9.0)"
    for name, value in {"LD_LIBRARY_PATH": driver, "FAKE_MAJOR": "9", "FAKE_MINOR": "0"}.items():
        monkeypatch.setenv(name, value)
    found = examine(chosen=only("view", "bundle", "plan-tensorrt", "plan-tensorrt_rtx"))["checks"]
    assert found["plan-tensorrt"]["status"] == PROBLEM
    assert refusal in found["plan-tensorrt"]["found"]
    assert found["plan-tensorrt"]["mend"] == packages.LOADER
    assert found["plan-tensorrt_rtx"]["status"] == ABSENT
    assert found["plan-tensorrt_rtx"]["found"].endswith(f"for other machines alone: {refusal}")


def test_a_gpu_that_computes_nothing_does_not_end_doctor(driver: str) -> None:
    told = doctor(LD_LIBRARY_PATH=driver)
    found = told.found["checks"]
    assert found["driver"]["status"] == found["decode-cpu"]["status"] == found["onnxruntime"]["status"] == WORKS
    assert found["decode-gpu"]["status"] == found["torch_cuda"]["status"] == PROBLEM
    assert (found["torch_fused"]["status"], found["torch_fused"]["found"]) == (
        UNKNOWN, "cannot be tried without torch_cuda",
    )  # fmt: skip
    assert found["tensorrt_rtx"]["status"] in (PROBLEM, UNKNOWN)
    assert told.code == 0
    assert "the GPU would stand idle" in table(told.found)
    assert "GPU 1" in table(told.found)


@pytest.mark.parametrize(
    ("capability", "built", "told", "otherwise"),
    [
        ("12.1", {"version": "1.2.3.4"}, "and a plan loads with the release that built it alone", ""),
        ("12.1", {"least_compute_capability": [13, 0]}, "the GPU here is SM121, which is older than any", ""),
        ("9.0", {}, "not support First (compute capability 9.0); score with another runtime", " --builder tensorrt"),
    ],
)
def test_a_plan_that_cannot_load_is_told_with_its_own_rebuilding(
    capability: str,
    built: dict[str, Any],
    told: str,
    otherwise: str,
    driver: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole = with_plan(write_bundle(tmp_path / "tiny"), "tensorrt-rtx", tmp_path / "planned")
    entry = {**(whole.manifest.builder or {}), **built, "rebuild": "mura-trt build-engine just so"}
    write_manifest(whole.folder, dataclasses.replace(whole.manifest, builder=entry))
    major, minor = capability.split(".")
    for name, value in {"LD_LIBRARY_PATH": driver, "FAKE_MAJOR": major, "FAKE_MINOR": minor}.items():
        monkeypatch.setenv(name, value)
    found = examine(whole.folder, chosen=only("bundle", "plan"))
    plan = found["checks"]["plan"]
    assert plan["status"] == PROBLEM
    assert told in plan["found"] and "just so" not in plan["found"]
    assert plan["mend"] == f"rebuild it: mura-trt build-engine just so{otherwise}"
    assert found["engine"]["suits_gpu"] is False


def test_libcuda_that_is_absent_or_of_another(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(cuda_devices, "LIBRARY", "libnosuch.so.1")
    assert cuda_driver(tmp_path) == Driver(None, None, (), None)
    assert cuda_device_count() == 0
    monkeypatch.setattr(cuda_devices, "LIBRARY", "libc.so.6")
    assert cuda_driver(tmp_path).problem == "libc.so.6 has no cuDriverGetVersion: it is too old, or not NVIDIA's"


def test_kernel_module_and_cards_are_seen_without_libcuda(tmp_path: Path) -> None:
    assert nvidia_cards(tmp_path) == 0
    for number, (vendor, kind) in enumerate(
        [("0x10de", "0x030200"), ("0x10de", "0x040300"), ("0x1002", "0x030000"), ("0x10de", "0x030000")]
    ):
        device = tmp_path / f"sys/bus/pci/devices/0000:0{number}:00.0"
        device.mkdir(parents=True)
        (device / "vendor").write_text(f"{vendor}\n")
        (device / "class").write_text(f"{kind}\n")
    assert nvidia_cards(tmp_path) == 2
    proc = tmp_path / "proc/driver/nvidia/version"
    proc.parent.mkdir(parents=True)
    proc.write_text(
        "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65.06  Release Build\nGCC version: 12\n"
    )
    assert cuda_driver(tmp_path).version == "580.65.06"
    module = tmp_path / "sys/module/nvidia/version"
    module.parent.mkdir(parents=True)
    module.write_text("590.1\n")
    assert cuda_driver(tmp_path).version == "590.1"


# --- strange machines ---


def test_nothing_is_raised_where_nothing_can_be_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert memory(tmp_path) == {"total_bytes": None, "available_bytes": None, "limit_bytes": None}
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(platform, "freedesktop_os_release", lambda: {})
    said = described(Finding(PROBLEM, "the process was killed by SIGSEGV"))
    assert said["cores"]["usable"] is None
    assert said["disk"]["work"]["free_bytes"] is None
    assert said["gpu"] is None and said["gpus"] == []
    check = {"status": PROBLEM, "found": "", "mend": "do", "seconds": 0.0}
    nothing = {"can_score": False, "runtimes": [], "checks": {"driver": check}}
    assert "unknown free of" in table({**nothing, "environment": {**said, "memory": memory(tmp_path)}})


GIB = 2**30
MEMINFO = f"MemTotal: {16 * GIB // 1024} kB\nMemAvailable: {12 * GIB // 1024} kB\n"


@pytest.mark.parametrize(
    ("cgroup", "files", "available", "limit"),
    [
        ("0::/\n", {}, 12, None),
        ("0::/\n", {"memory.max": "max\n"}, 12, None),
        ("0::/job\n", {"job/memory.max": f"{4 * GIB}\n", "job/memory.current": f"{3 * GIB}\n"}, 1, 4),
        # The limit lies on a folder above, and half of what is used is a cache.
        (
            "0::/job/step\n",
            {
                "job/step/memory.max": "max\n",
                "job/memory.max": f"{4 * GIB}\n",
                "job/memory.current": f"{2 * GIB}\n",
                "job/memory.stat": f"anon 5\ninactive_file {GIB}\n",
            },
            3,
            4,
        ),
        # In a container the path is the host's, and its root holds the limit.
        ("0::/docker/abc\n", {"memory.max": f"{2 * GIB}\n", "memory.current": "0\n"}, 2, 2),
        ("4:memory:/\n0::/\n", {"memory/memory.limit_in_bytes": "9223372036854771712\n"}, 12, None),
        (
            "5:cpu,memory:/job\n1:name=systemd:/\n",
            {
                "memory/job/memory.limit_in_bytes": f"{4 * GIB}\n",
                "memory/job/memory.usage_in_bytes": f"{2 * GIB}\n",
                "memory/job/memory.stat": f"total_inactive_file {GIB}\n",
            },
            3,
            4,
        ),
        ("0::/job\n", {"job/memory.max": f"{14 * GIB}\n", "job/memory.current": "0\n"}, 12, 14),
    ],
)
def test_memory_is_what_the_cgroup_leaves(
    cgroup: str, files: dict[str, str], available: int, limit: int | None, tmp_path: Path
) -> None:
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/meminfo").write_text(MEMINFO)
    (tmp_path / "proc/self/cgroup").write_text(cgroup)
    for name, text in files.items():
        path = tmp_path / "sys/fs/cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert memory(tmp_path) == {
        "total_bytes": 16 * GIB,
        "available_bytes": available * GIB,
        "limit_bytes": None if limit is None else limit * GIB,
    }
