"""Sessions on the GPU at hand, for tests marked ``gpu``: what cannot run there is skipped, and nothing else."""

from __future__ import annotations

import pytest

from mura_trt.bundle import Bundle
from mura_trt.cuda_devices import gpu_kind
from mura_trt.plan import BUILDERS, unsupported, why_not
from mura_trt.runtimes import Session, SessionOptions, open_session


def skip_without_plans_of(builder: str | None) -> None:
    """Skips the test where no plan of a builder's runs on the GPU at hand."""
    gpu = gpu_kind()
    assert gpu is not None
    if builder is None:
        pytest.skip("no TensorRT builder here")
    if refusal := unsupported(builder, gpu):
        pytest.skip(refusal)


def skip_where_refused(bundle: Bundle) -> None:
    """Skips the test where the bundle has no plan for the GPU at hand, with what its runtime says."""
    built, gpu = bundle.manifest.builder, gpu_kind()
    if built is None:
        pytest.skip("the bundle has no plan: no TensorRT builder here")
    assert gpu is not None
    if refusal := why_not(built, built["version"], gpu):
        pytest.skip(refusal)


def opened(runtime: str, bundle: Bundle, options: SessionOptions) -> Session:
    """A session of a runtime; of one that loads plans, where the bundle has a plan for it and for the GPU at hand."""
    if runtime in BUILDERS.values():
        skip_where_refused(bundle)
        built = bundle.manifest.builder
        if built and BUILDERS[built["name"]] != runtime:
            pytest.skip(f"the bundle's plan is {built['name']}'s")
    return open_session(runtime, bundle, options)[0]
