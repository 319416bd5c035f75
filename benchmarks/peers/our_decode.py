"""A peer's model behind our decoder, so that what the decoder gains is not credited to our engine.

python -m benchmarks.peers.our_decode torch FOLDER -o studies.csv --checkpoint model.safetensors --channels-last
python -m benchmarks.peers.our_decode openvino FOLDER -o studies.csv --graph model-fp32.onnx --hint THROUGHPUT
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.peers.openvino_loader import Engine, add_engine_options
from benchmarks.peers.pillow_views import AHEAD, runs_of
from benchmarks.peers.script import IMAGENET_MEAN, IMAGENET_STD, SIZE, Clock, arguments, views_of
from benchmarks.peers.torch_loader import Model, add_model_options, sizes_of
from mura_trt.host_decode import AnyDecoder, open_decoder


def decoded(decoder: AnyDecoder, views: Sequence[Path], batch: int) -> Iterator[NDArray[np.uint8]]:
    """Pixels, uint8 (batch, 320, 320, 1), decoded ahead of whoever takes them."""
    for run in runs_of(views, batch):
        decoder.submit([view.read_bytes() for view in run])
        if decoder.pending > AHEAD:
            yield decoder.collect().pixels
    while decoder.pending:
        yield decoder.collect().pixels


def by_torch(asked: Any, views: Sequence[Path], decoder: AnyDecoder) -> None:
    """PyTorch, with the pixels normalised by PyTorch."""
    import torch

    model = Model(asked, sizes_of(len(views), asked.batch))
    mean = 255 * torch.tensor(IMAGENET_MEAN).view(1, 3, 1, 1)
    scale = 1 / (255 * torch.tensor(IMAGENET_STD).view(1, 3, 1, 1))
    clock = Clock()
    found = []
    for pixels in decoded(decoder, views, asked.batch):
        images = torch.from_numpy(pixels.copy()).float().permute(0, 3, 1, 2)  # a copy: DALI's are read-only
        found.append(model.probabilities((images - mean) * scale))
    clock.finish(asked, views, torch.cat(found).tolist())


def by_openvino(asked: Any, views: Sequence[Path], decoder: AnyDecoder) -> None:
    """OpenVINO, whose graph normalises."""
    engine = Engine(asked.graph, asked.batch, asked.hint)
    clock = Clock()
    probabilities = engine.probabilities(decoded(decoder, views, asked.batch))
    clock.finish(asked, views, probabilities.tolist())


def main() -> None:
    """Scores the folder."""
    engine, *rest = sys.argv[1:] or [""]
    parser = arguments(__doc__)
    parser.add_argument("--batch", type=int, default=8, help="views")
    parser.add_argument("--decoders", type=int, default=1, help="decoding threads")
    if engine == "torch":
        parser.add_argument("--checkpoint", type=Path, required=True)
        parser.add_argument("--threads", type=int, help="torch's; its own default if not given")
        add_model_options(parser)
    elif engine == "openvino":
        add_engine_options(parser)
    else:
        parser.error("first say whose model: torch or openvino")
    asked = parser.parse_args(rest)
    views = views_of(asked.folder)
    decoder = open_decoder(SIZE, asked.decoders, asked.batch)
    (by_torch if engine == "torch" else by_openvino)(asked, views, decoder)
    decoder.close()


if __name__ == "__main__":
    main()
