"""An ONNX file as it is, in FP32 by ONNX Runtime, with everything before and behind the graph done here in NumPy."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mura_trt.contract import InputContract
from mura_trt.cores import usable_cores
from mura_trt.errors import EnvironmentProblem, UsageError
from mura_trt.networks.told import CLASSES, LEAST_PROBABILITY, PROBABILITY, Facts

BATCH = 8  # pictures at once, where that is free


def normalised(pixels: NDArray[np.uint8], contract: InputContract, layout: str) -> NDArray[np.float32]:
    """What a network takes: float32 (n, C, H, W) or (n, H, W, C), of gray levels uint8 (n, H, W, 1)."""
    mean, std = (np.array(numbers, np.float32) for numbers in (contract.mean, contract.std))
    values = (pixels.astype(np.float32) / np.float32(255) - mean) / std
    return np.ascontiguousarray(values.transpose(0, 3, 1, 2) if layout == "NCHW" else values, np.float32)


def scores_of(columns: NDArray[np.float32], facts: Facts) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Probability and logit, float32 (n,) each, of a network's numbers, float32 (n, columns)."""
    wanted = columns[:, facts.abnormal].astype(np.float64)
    if facts.scores == PROBABILITY:
        inside = np.clip(wanted, LEAST_PROBABILITY, 1 - LEAST_PROBABILITY)
        return wanted.astype(np.float32), np.log(inside / (1 - inside)).astype(np.float32)
    logit = wanted - columns[:, 1 - facts.abnormal] if facts.scores == CLASSES else wanted
    # exp of a large number overflows to infinity, and the probability is 0, as it should be.
    with np.errstate(over="ignore"):
        return (1 / (1 + np.exp(-logit))).astype(np.float32), logit.astype(np.float32)


class OnnxSession:
    """A graph that takes pictures, by ONNX Runtime on the CPU.

    Parameters
    ----------
    model
        The file, or its bytes.
    where
        What errors call it.
    as_written
        Compute every node by itself, in the order of the graph.

    Raises
    ------
    UsageError
        ONNX Runtime does not load it.
    """

    def __init__(self, model: str | bytes, where: Path, as_written: bool = False) -> None:
        try:
            import onnxruntime as ort
        except ImportError as error:
            raise EnvironmentProblem(f"ONNX Runtime does not import ({error}): pip install onnxruntime") from error
        settings = ort.SessionOptions()
        settings.intra_op_num_threads = usable_cores()
        settings.log_severity_level = 4  # what is wrong it raises, too
        if as_written:
            settings.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        self._where = where
        try:
            self._session = ort.InferenceSession(model, settings, providers=["CPUExecutionProvider"])
        except Exception as error:  # its kinds of errors have nothing in common
            raise UsageError(f"{where}: ONNX Runtime does not load it: {error}") from error

    def run(self, name: str, values: NDArray[Any], outputs: Sequence[str]) -> list[NDArray[Any]]:
        """Outputs of a batch; raises UsageError where the graph does not take it."""
        try:
            return [np.asarray(found) for found in self._session.run([*outputs], {name: values})]
        except Exception as error:  # as above
            raise UsageError(
                f"{self._where}: ONNX Runtime cannot run it on an input {name} of shape {values.shape}: {error}"
            ) from error


class Batches:
    """Pictures for a session, as many at once as its graph takes.

    Parameters
    ----------
    session
        Of the graph.
    contract
        Size and numbers of the pictures.
    input, layout, batch
        As in :class:`Facts`.
    """

    def __init__(self, session: OnnxSession, contract: InputContract, input: str, layout: str, batch: int | None):
        self._session, self._contract = session, contract
        self._input, self._layout, self._batch = input, layout, batch

    def run(self, pixels: NDArray[np.uint8], outputs: Sequence[str]) -> list[list[NDArray[Any]]]:
        """The outputs of each batch, of gray levels uint8 (n, H, W, 1).

        A batch of a fixed size is filled up with its last picture, so that an output of the last batch may have more
        rows than there are pictures.
        """
        size = self._batch or BATCH
        found = []
        for start in range(0, len(pixels), size):
            part = pixels[start : start + size]
            if self._batch and len(part) < size:
                part = np.concatenate([part, np.repeat(part[-1:], size - len(part), 0)])
            found.append(self._session.run(self._input, normalised(part, self._contract, self._layout), outputs))
        return found


class Original:
    """The scores that a file's graph gives.

    Parameters
    ----------
    path
        The ONNX file.
    contract
        Size and numbers of the pictures.
    facts
        How the graph takes them, and what it gives.
    session
        Of a graph that was made of the file's; without it, the file's own is what runs.
    """

    def __init__(self, path: Path, contract: InputContract, facts: Facts, session: OnnxSession | None = None) -> None:
        self._facts = facts
        session = session or OnnxSession(str(path), path)
        self._batches = Batches(session, contract, facts.input, facts.layout, facts.batch)

    def scores(self, pixels: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Probability and logit, float32 (n,) each, of gray levels uint8 (n, H, W, 1)."""
        facts = self._facts
        parts = [batch.reshape(-1, facts.columns) for (batch,) in self._batches.run(pixels, [facts.output])]
        return scores_of(np.concatenate(parts)[: len(pixels)], facts)
