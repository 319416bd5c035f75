"""What the probabilities are: Pillow and PyTorch in FP32, one image at a time, with nothing tuned.

    python -m benchmarks.peers.reference FOLDER -o views.csv --checkpoint model.safetensors

Its network's forward pass is the package's (``MuraNet``), whose own agreement with torchvision the tests show; the
peers' is written apart from it.
"""

from __future__ import annotations

import csv
from pathlib import Path

from benchmarks.peers.pillow_views import load
from benchmarks.peers.script import arguments, views_of


def main() -> None:
    """Writes each view's path below the folder and its probability."""
    import torch

    from mura_trt.checkpoint import load_checkpoint

    parser = arguments(__doc__)
    parser.add_argument("--checkpoint", type=Path, required=True)
    asked = parser.parse_args()
    model = load_checkpoint(asked.checkpoint)
    with asked.out.open("w", newline="") as file, torch.inference_mode():
        table = csv.writer(file)
        table.writerow(["view", "probability"])
        for view in views_of(asked.folder):
            probability, _, _ = model(torch.from_numpy(load(view)[None]))
            table.writerow([view.relative_to(asked.folder).as_posix(), f"{float(probability):.9g}"])


if __name__ == "__main__":
    main()
