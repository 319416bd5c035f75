"""OpenVINO on the FP32 graph, with its queue of asynchronous requests, fed by Pillow.

python -m benchmarks.peers.openvino_loader FOLDER -o studies.csv --graph model-fp32.onnx --hint THROUGHPUT
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.peers.pillow_views import batches
from benchmarks.peers.script import SIZE, Clock, arguments, views_of


def add_engine_options(parser: argparse.ArgumentParser) -> None:
    """How the graph is run."""
    parser.add_argument("--graph", type=Path, required=True, help="from raw pixels, uint8 (N, 320, 320, 1)")
    parser.add_argument("--hint", choices=("THROUGHPUT", "LATENCY"), default="THROUGHPUT")


class Engine:
    """A compiled model for one batch size, and its queue, warmed up.

    FP32 is asked for, because on processors with BF16 or AMX instructions OpenVINO would round to BF16.
    """

    def __init__(self, graph: Path, batch: int, hint: str) -> None:
        import openvino as ov

        core = ov.Core()
        model = core.read_model(graph)
        model.reshape([batch, *SIZE, 1])
        settings = {"PERFORMANCE_HINT": hint, "INFERENCE_PRECISION_HINT": "f32"}
        self._batch, self._compiled = batch, core.compile_model(model, "CPU", settings)
        self._queue = ov.AsyncInferQueue(self._compiled)
        self.probabilities([np.zeros((batch, *SIZE, 1), np.uint8)] * len(self._queue))

    def probabilities(self, pixels: Iterable[NDArray[np.uint8]]) -> NDArray[np.float32]:
        """float32, one a view; a short batch is filled up with black views whose scores are dropped."""
        found: dict[int, NDArray[np.float32]] = {}

        def keep(request: Any, at: tuple[int, int]) -> None:
            number, views = at
            found[number] = request.get_tensor("probability").data[:views].copy()

        self._queue.set_callback(keep)
        for number, images in enumerate(pixels):
            views = len(images)
            if views < self._batch:
                images = np.concatenate([images, np.zeros((self._batch - views, *SIZE, 1), np.uint8)])
            self._queue.start_async({"image": images}, (number, views))
        self._queue.wait_all()
        return np.concatenate([found[number] for number in sorted(found)])


def main() -> None:
    """Scores the folder."""
    parser = arguments(__doc__)
    parser.add_argument("--batch", type=int, default=1, help="views in a request")
    parser.add_argument("--loaders", type=int, default=0, help="threads for Pillow; 0: the loop that starts requests")
    add_engine_options(parser)
    asked = parser.parse_args()
    engine = Engine(asked.graph, asked.batch, asked.hint)
    views = views_of(asked.folder)
    clock = Clock()
    probabilities = engine.probabilities(batches(views, asked.batch, asked.loaders))
    clock.finish(asked, views, probabilities.tolist())


if __name__ == "__main__":
    main()
