"""PyTorch as TorchXRayVision's scripts have it: read an image, score it, read the next.

python -m benchmarks.peers.one_by_one FOLDER -o studies.csv --checkpoint model.safetensors
"""

from __future__ import annotations

from pathlib import Path

from benchmarks.peers.script import SIZE, Clock, arguments, views_of
from benchmarks.peers.torch_loader import Views
from benchmarks.peers.torch_network import network


def main() -> None:
    """Scores the folder."""
    import torch

    parser = arguments(__doc__)
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--threads", type=int, help="torch's threads; its own default if not given")
    asked = parser.parse_args()
    if asked.threads:
        torch.set_num_threads(asked.threads)
    model = network(asked.checkpoint)
    paths = views_of(asked.folder)
    images = Views(paths)
    with torch.no_grad():
        model(torch.zeros(1, 3, *SIZE))
        clock = Clock()
        probabilities = [float(model(images[at][None])) for at in range(len(images))]
    clock.finish(asked, paths, probabilities)


if __name__ == "__main__":
    main()
