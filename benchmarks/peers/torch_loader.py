"""PyTorch: a DataLoader, Pillow, and DenseNet-169 in FP32 (eager, channels last or compiled) or, on a GPU, in FP16.

python -m benchmarks.peers.torch_loader FOLDER -o studies.csv --checkpoint model.safetensors --workers 1 --batch 8
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from benchmarks.peers.script import IMAGENET_MEAN, IMAGENET_STD, SIZE, Clock, arguments, views_of
from benchmarks.peers.torch_network import network

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor


class Views:
    """A map-style data set: Pillow, then ToTensor, Normalize and three channels, as with torchvision's transforms."""

    def __init__(self, paths: Sequence[Path]) -> None:
        import torch

        self._torch, self._paths = torch, paths
        self._mean = torch.tensor(IMAGENET_MEAN).view(3, 1, 1)
        self._std = torch.tensor(IMAGENET_STD).view(3, 1, 1)

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, at: int) -> Tensor:
        """float32 (3, 320, 320)."""
        with Image.open(self._paths[at]) as image:
            gray = image.convert("L").resize(SIZE, Image.Resampling.BILINEAR)
        pixels = self._torch.from_numpy(np.array(gray)).float().div(255)
        return pixels.expand(3, -1, -1).sub(self._mean).div(self._std)


def options() -> argparse.ArgumentParser:
    """The script's options."""
    parser = arguments(__doc__)
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--workers", type=int, default=0, help="processes of the DataLoader")
    parser.add_argument("--batch", type=int, default=8, help="views")
    parser.add_argument("--threads", type=int, help="torch's threads in the main process; its own default if not given")
    add_model_options(parser)
    return parser


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """How the network is run."""
    parser.add_argument("--channels-last", action="store_true")
    parser.add_argument("--compile", choices=("default", "max-autotune"), help="mode of torch.compile")
    parser.add_argument("--freezing", action="store_true", help="inductor folds batch norms and packs the weights")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--half", action="store_true", help="weights and activations in FP16")


class Model:
    """The network as it was asked for, warmed up for every batch size that will come."""

    def __init__(self, asked: Any, sizes: Sequence[int]) -> None:
        import torch

        self._torch, self._device = torch, asked.device
        self._dtype = torch.float16 if asked.half else torch.float32
        self._layout = torch.channels_last if asked.channels_last else torch.contiguous_format
        if asked.threads:
            torch.set_num_threads(asked.threads)
        model = network(asked.checkpoint).to(self._device, self._dtype, memory_format=self._layout)
        if asked.compile:
            if asked.freezing:
                torch._inductor.config.freezing = True
            model = torch.compile(model, mode=asked.compile, dynamic=False)
        self._model = model
        for size in sizes:
            self.probabilities(torch.zeros(size, 3, *SIZE))

    def probabilities(self, images: Tensor) -> Tensor:
        """float32 (N,) of normalised images, float32 (N, 3, 320, 320)."""
        with self._torch.no_grad():  # freezing does not know inference_mode
            images = images.to(self._device, self._dtype, non_blocking=True, memory_format=self._layout)
            found: Tensor = self._model(images).float()
        return found


def sizes_of(views: int, batch: int) -> list[int]:
    """The sizes of all batches: full ones, and what is left."""
    return sorted({min(batch, views), views % batch} - {0}, reverse=True)


def main() -> None:
    """Scores the folder."""
    import torch
    from torch.utils.data import DataLoader

    asked = options().parse_args()
    views = views_of(asked.folder)
    model = Model(asked, sizes_of(len(views), asked.batch))
    data: Any = Views(views)  # it is what a data set is, without torch at the module's top
    loader: DataLoader[Tensor] = DataLoader(
        data,
        batch_size=asked.batch,
        num_workers=asked.workers,
        pin_memory=asked.device == "cuda",
    )
    batches = iter(loader)  # starts the workers
    clock = Clock()
    # Kept where they were computed: to ask for each at once would make a GPU wait.
    probabilities = torch.cat([model.probabilities(images) for images in batches]).cpu()
    clock.finish(asked, views, probabilities.tolist())


if __name__ == "__main__":
    main()
