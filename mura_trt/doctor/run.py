"""``mura-trt doctor``: every check in turn, and what they come to."""

from __future__ import annotations

import dataclasses
import importlib.util
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mura_trt.cuda_devices import GpuKind
from mura_trt.doctor import packages
from mura_trt.doctor.environment import described, driver_finding
from mura_trt.doctor.finding import ABSENT, PROBLEM, UNKNOWN, WORKS, Finding
from mura_trt.doctor.process import ask
from mura_trt.errors import EXIT_ENVIRONMENT, EXIT_OK
from mura_trt.plan import unsupported

SCHEMA = 1
CPU_SECONDS, GPU_SECONDS = 90.0, 240.0  # the latter for kernels that are compiled, and for slow starts of drivers
PLAN_RUNTIMES = ("tensorrt", "tensorrt_rtx")
GPU_RUNTIMES = (*PLAN_RUNTIMES, "torch_fused", "torch_cuda")
# In the order in which `score --runtime auto` tries them; torch must be asked for.
SCORING = (*GPU_RUNTIMES, "onnxruntime", "torch")
NEEDED = {"tables": (WORKS,), "decode-cpu": (WORKS,), "decode-png": (WORKS, ABSENT)}  # whichever runtime scores
_PROBES = "mura_trt.doctor.probes"
BUNDLE = "bundle"  # the check that makes or opens it; its facts say what a view's score should be


@dataclass(frozen=True)
class Check:
    """A function to call in a process of its own, and when there is no use in calling it."""

    name: str
    probe: str
    """``module:function``."""
    mend: str
    """What to do where it fails for no reason that is known."""
    arguments: dict[str, Any] = field(default_factory=dict)
    modules: tuple[str, ...] = ()
    """Without these nothing is wrong, and the check is left out."""
    needs: tuple[str, ...] = ()
    """Checks that must have worked."""
    gpu: bool = False
    """It takes a GPU."""


def checks(folder: Path, engine: Path | None) -> list[Check]:
    """The checks of ``doctor``; ``folder`` is scratch, ``engine`` the user's bundle."""
    scratch = {"folder": str(folder)}
    used = engine or folder / "bundle"
    with_view = ("view", BUNDLE)

    def runtime(name: str, bundle: Path, packages: str, needs: tuple[str, ...], *modules: str) -> Check:
        arguments = {"name": name, "bundle": str(bundle), **scratch}
        return Check(name, f"{_PROBES}:runtime", _reinstall(packages), arguments, modules, needs, name in GPU_RUNTIMES)

    dali = _reinstall("nvidia-dali-cuda130")
    png = f"{_reinstall('isal')}, and mura-trt anew from where it was installed"
    found = [
        Check("view", f"{_PROBES}:view", _reinstall("pillow numpy"), scratch),
        Check("tables", f"{_PROBES}:tables", _reinstall("pandas pyarrow"), scratch),
    ]
    if engine:
        given, rebuild = {"bundle": str(engine)}, "rebuild the bundle on this machine: mura-trt build-engine"
        found.append(Check(BUNDLE, f"{_PROBES}:engine", rebuild, given))
        found.append(Check("plan", f"{_PROBES}:engine_plan", rebuild, given, needs=(BUNDLE,)))
    else:
        found.append(Check(BUNDLE, f"{_PROBES}:network", _reinstall("onnx"), scratch, needs=("view",)))
    found += [
        Check("decode-png", f"{_PROBES}:decode_png", png, scratch, needs=("view",)),
        Check("decode-cpu", f"{_PROBES}:decode_cpu", dali, scratch, needs=("view",)),
        Check("decode-gpu", f"{_PROBES}:decode_gpu", dali, scratch, needs=("view",), gpu=True),
        runtime("onnxruntime", used, "onnxruntime", with_view),
        runtime("emulated", used, "onnxruntime onnx", with_view, "onnx"),
    ]
    found.append(Check("pycuda", f"{_PROBES}:pycuda", _reinstall("pycuda")))
    modules = ("torch", "onnx")  # with onnx the runtimes read their weights
    compiled = (
        f"give Triton a C compiler and Python's headers (gcc, python3-dev); where it has them, {_reinstall('triton')};"
        " where it cannot compile for the GPU, torch_cuda does without it"
    )
    if engine:
        found.append(runtime("torch", engine, "torch", with_view, *modules))
        found.append(runtime("torch_cuda", engine, "torch", (*with_view, "pycuda"), *modules))
        fused = runtime("torch_fused", engine, "triton", (*with_view, "pycuda"), *modules, "triton")
        found.append(dataclasses.replace(fused, mend=compiled))
    else:
        arithmetic, torch = f"{_PROBES}:torch", _reinstall("torch")
        cpu, cuda = ({"device": device, **scratch} for device in ("cpu", "cuda"))
        found.append(Check("torch", arithmetic, torch, cpu, modules, ("view",)))
        found.append(Check("torch_cuda", arithmetic, torch, cuda, modules, ("view",), gpu=True))
        kernel, there, needed = f"{_PROBES}:triton", {"device": "cuda"}, (*modules, "triton")
        found.append(Check("torch_fused", kernel, compiled, there, needed, ("torch_cuda",), gpu=True))
    for name in PLAN_RUNTIMES:
        package = name.replace("_", "-")
        if engine:
            found.append(runtime(name, engine, package, (*with_view, "plan", "pycuda")))
        else:
            build = {"builder": package, **scratch}
            found.append(Check(f"plan-{name}", f"{_PROBES}:plan", _reinstall(package), build, (name,), (BUNDLE,)))
            found.append(runtime(name, folder / name, package, (f"plan-{name}", "pycuda"), name))
    return found


def _reinstall(packages: str) -> str:
    return f"pip install --force-reinstall {packages}"


def examine(
    engine: Path | None = None,
    report: Callable[[str], None] = lambda _: None,
    chosen: Callable[[Path, Path | None], Sequence[Check]] = checks,
) -> dict[str, Any]:
    """Tries everything that scoring is made of.

    Parameters
    ----------
    engine
        A bundle to try the runtimes with; None makes a tiny one, which takes onnx.
    report
        Takes the name of each check when it begins.
    chosen
        Which checks, given a scratch folder and ``engine``.

    Returns
    -------
    JSON types:

    - ``schema``: 1;
    - ``can_score``: whether DALI decodes on the CPU, our own decoder does or is not there, tables can be written and
      read, and at least one runtime that scores works; ``exit_code``: 0, or 5;
    - ``runtimes``: those that work, in the order in which ``--runtime auto`` takes them, ``torch`` being the last;
    - ``environment``: as :func:`mura_trt.doctor.environment.described` gives it;
    - ``engine``: None, or of the bundle its ``folder``, ``name``, ``precision``, ``proof`` (how it compares with
      its reference), ``builder`` (the manifest's) and ``suits_gpu``: whether its plan suits the GPU, None where nobody
      can tell;
    - ``checks``: by name, each with ``status`` (``works``, ``problem``, ``absent`` for what is not here and not needed,
      ``unknown`` for what could not be tried), ``found``, ``mend`` (what to do, or None) and ``seconds``. They are
      ``driver``, ``packages``, ``view``, ``tables``, ``bundle``, ``decode-png``, ``decode-cpu``, ``decode-gpu``,
      ``onnxruntime``, ``emulated``, ``pycuda``, ``torch``, ``torch_cuda``, ``torch_fused``, ``tensorrt`` and
      ``tensorrt_rtx``; with a bundle ``plan``, else ``plan-tensorrt`` and ``plan-tensorrt_rtx``.
    """
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        folder = Path(name)
        report("driver")
        driver = driver_finding(folder)
        gpus = bool(driver.facts.get("gpus"))
        found = {"driver": driver, "packages": packages.judged(packages.installed())}
        for check in chosen(folder, engine):
            report(check.name)
            found[check.name] = _left_out(check, found, gpus) or ask(
                check.probe, check.arguments, folder, GPU_SECONDS if gpus else CPU_SECONDS, check.mend
            )
    found = _with_scores_judged(found)
    if gpus:
        found = _with_builders_judged(found, driver.facts["gpus"][0])
    runtimes = [name for name in SCORING if name in found and found[name].status == WORKS]
    can_score = bool(runtimes) and all(name in found and found[name].status in good for name, good in NEEDED.items())
    return {
        "schema": SCHEMA,
        "can_score": can_score,
        "exit_code": EXIT_OK if can_score else EXIT_ENVIRONMENT,
        "runtimes": runtimes,
        "environment": described(driver),
        "engine": _engine(engine, found) if engine else None,
        "checks": {name: _shown(finding) for name, finding in found.items()},
    }


def _left_out(check: Check, found: dict[str, Finding], gpus: bool) -> Finding | None:
    """Why there is no use in trying, if there is none."""
    missing = [module for module in check.modules if importlib.util.find_spec(module) is None]
    if missing:
        names = " ".join(missing).replace("_", "-")
        mend = packages.LOADER if "tensorrt" in missing else f"pip install {names}"
        return Finding(ABSENT, f"not installed: {names}", mend)
    if check.gpu and not gpus:
        return Finding(ABSENT, "no GPU here")
    bundle = found[BUNDLE].facts if BUNDLE in found else {}
    built = bundle.get("builder")
    if check.name in PLAN_RUNTIMES and built and built["name"] != check.name.replace("_", "-"):
        return Finding(ABSENT, f"the bundle's plan is {built['name']}'s")
    if check.name == "torch_fused" and bundle.get("precision") == "fp32":
        return Finding(ABSENT, "it computes in half precision, and the bundle is FP32")
    failed = [name for name in check.needs if name not in found or found[name].status != WORKS]
    if not failed:
        return None
    absent = all(name in found and found[name].status == ABSENT for name in failed)
    return Finding(ABSENT if absent else UNKNOWN, f"cannot be tried without {' and '.join(failed)}")


def _with_scores_judged(found: dict[str, Finding]) -> dict[str, Finding]:
    """The runtimes' findings, each with its score beside the expected one; a problem where that is another."""
    if BUNDLE not in found or found[BUNDLE].status != WORKS:
        return found
    expected, bound = found[BUNDLE].facts["expected"], found[BUNDLE].facts["bound"]
    scored = {name: finding.facts["score"] for name, finding in found.items() if "score" in finding.facts}
    reference = None
    if expected is None:  # a user's bundle: one of those that may compute on the CPU, in FP32
        reference = next((name for name in ("onnxruntime", "torch") if name in scored), None)
        if reference is None:
            return found
        expected = scored[reference]
    judged = dict(found)
    for name, score in scored.items():
        off = abs(score - expected)
        told = f"{found[name].found}: probability {score:.4f}"
        if name == reference:
            told += ", which the others are compared with"
        else:
            told += f" where {expected:.4f} is {f'what {reference} says' if reference else 'right'}, |dp| {off:.0e}"
        if off <= bound:
            judged[name] = dataclasses.replace(found[name], found=told)
        else:  # NaN, too
            mend = f"do not use this runtime here; mura-trt parity --runtime {name} shows more, on many views"
            judged[name] = dataclasses.replace(found[name], status=PROBLEM, found=f"wrong: {told}", mend=mend)
    return judged


def _with_builders_judged(found: dict[str, Finding], gpu: dict[str, Any]) -> dict[str, Finding]:
    """The findings, with a problem where no builder has plans for the GPU; ``gpu`` as the driver's facts have it."""
    builds = [f"plan-{name}" for name in PLAN_RUNTIMES if f"plan-{name}" in found]
    if not builds or any(found[name].status != ABSENT for name in builds):
        return found
    major, minor = map(int, gpu["compute_capability"].split("."))
    if refused := unsupported("tensorrt-rtx", GpuKind(gpu["name"], (major, minor))):
        wanted, told = builds[0], f"not installed, and nothing else builds plans for the GPU: {refused}"
    else:
        wanted, told = builds[-1], "not installed, nor is TensorRT, and one of them is what a GPU is used best with"
    return {**found, wanted: dataclasses.replace(found[wanted], status=PROBLEM, found=told)}


def _engine(engine: Path, found: dict[str, Finding]) -> dict[str, Any]:
    facts = found[BUNDLE].facts if BUNDLE in found else {}
    told = {name: facts.get(name) for name in ("name", "precision", "proof", "builder")}
    return {
        "folder": str(engine),
        **told,
        "suits_gpu": found["plan"].facts.get("suits_gpu") if "plan" in found else None,
    }


def _shown(finding: Finding) -> dict[str, Any]:
    return {name: getattr(finding, name) for name in ("status", "found", "mend", "seconds")}
