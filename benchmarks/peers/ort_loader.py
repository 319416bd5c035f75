"""ONNX Runtime on the FP32 graph, with Pillow in a plain loop, in threads ahead of it, or in a DataLoader's processes.

python -m benchmarks.peers.ort_loader FOLDER -o studies.csv --graph model-fp32.onnx --batch 8 --loader threads:1
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.peers.pillow_views import batches, load
from benchmarks.peers.script import SIZE, Clock, arguments, views_of


class Pixels:
    """A map-style data set of raw pixels."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self._paths = paths

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, at: int) -> NDArray[np.uint8]:
        """uint8 (320, 320, 1)."""
        return load(self._paths[at])


def by_dataloader(views: Sequence[Path], batch: int, workers: int) -> Iterator[NDArray[np.uint8]]:
    """Pixels from the processes of PyTorch's DataLoader, which are started before this returns."""
    from torch.utils.data import DataLoader

    data: Any = Pixels(views)
    loader: DataLoader[Any] = DataLoader(data, batch_size=batch, num_workers=workers)
    return (images.numpy() for images in iter(loader))


def main() -> None:
    """Scores the folder."""
    import onnxruntime as ort

    parser = arguments(__doc__)
    parser.add_argument("--graph", type=Path, required=True, help="from raw pixels, uint8 (N, 320, 320, 1)")
    parser.add_argument("--batch", type=int, default=8, help="views")
    parser.add_argument("--loader", default="plain", help="plain, threads:N or dataloader:N")
    parser.add_argument("--threads", type=int, default=0, help="of ONNX Runtime; 0 is its own default")
    parser.add_argument("--provider", default="CPUExecutionProvider")
    asked = parser.parse_args()
    settings = ort.SessionOptions()
    settings.intra_op_num_threads = asked.threads
    settings.log_severity_level = 3  # errors
    session = ort.InferenceSession(str(asked.graph), settings, providers=[asked.provider])
    if asked.provider not in session.get_providers():
        raise SystemExit(f"ONNX Runtime fell back to {session.get_providers()}")
    session.run(["probability"], {"image": np.zeros((asked.batch, *SIZE, 1), np.uint8)})

    views = views_of(asked.folder)
    kind, _, number = asked.loader.partition(":")
    of_kind = by_dataloader if kind == "dataloader" else batches
    pixels = of_kind(views, asked.batch, int(number or 0))
    clock = Clock()
    probabilities = np.concatenate([session.run(["probability"], {"image": images})[0] for images in pixels])
    clock.finish(asked, views, probabilities.tolist())


if __name__ == "__main__":
    main()
