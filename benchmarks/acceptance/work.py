"""What the sections share: files, how a rate is taken, and how an error is told."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from mura_trt.bench.spread import spread

ROOT = Path(__file__).resolve().parents[2]
REPEATS = 5
VIEWS_TIMED = 1536  # in batches one behind the other, by one repetition


class Work:
    """What the sections share: files that the first ones make and the others take.

    Parameters
    ----------
    folder
        Where they are.
    checkpoint
        The model's file.
    cpu
        Whether there is to be no GPU.
    """

    def __init__(self, folder: Path, checkpoint: Path, cpu: bool) -> None:
        self.folder, self.checkpoint, self.cpu = folder, checkpoint, cpu
        self.png, self.jpeg = folder / "png", folder / "jpeg"

    def bundle(self, precision: str) -> Path:
        """The bundle of that precision, there or not."""
        return self.folder / precision

    @property
    def runtimes(self) -> list[str]:
        """Those to look at here, best first."""
        return (
            ["onnxruntime", "emulated"]
            if self.cpu
            else ["tensorrt", "tensorrt_rtx", "torch_fused", "torch_cuda", "torch"]
        )

    def sample(self, views: int) -> list[bytes]:
        """Files of the PNG archive, again and again."""
        files = [path.read_bytes() for path in sorted(self.png.rglob("*.png"))]
        return [files[at % len(files)] for at in range(views)]


def interleaved(takes: dict[str, Callable[[], float]], repeats: int = REPEATS, warm_up: int = 1) -> dict[str, Any]:
    """Each measurement so often in turn, behind rounds that are not counted; an error in place of one that fails."""
    found: dict[str, list[float]] = {name: [] for name in takes}
    errors: dict[str, str] = {}
    for turn in range(-warm_up, repeats):
        for name, take in takes.items():
            if name in errors:
                continue
            try:
                value = take()
            except Exception as error:  # one peer that fails must not cost the others their figures
                errors[name] = told(error)
            else:
                if turn >= 0:
                    found[name].append(value)
    return {name: errors.get(name) or spread(values) for name, values in found.items()}


def told(error: Exception) -> str:
    """An error in one line."""
    return f"{type(error).__name__}: {error}".splitlines()[0][:500]


def problem(found: dict[str, Any]) -> str:
    """Why a section has no result, in short; empty where it has one."""
    return str(found.get("error") or found.get("left_out") or "")[:160]
