"""What a training run is told, and which of it decides the weights."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from mura_trt.errors import UsageError
from mura_trt.files import sha256_of

PRECISIONS = ("fp32", "fp16", "bf16")


@dataclass(frozen=True)
class TrainOptions:
    """A training run; the defaults are the paper's where it says (Rajpurkar et al. 2018, section 3)."""

    archive: Path
    """Folder or list in MURA's layout."""
    out: Path
    """Safetensors file for the best weights; what a run needs on its way lies beside it, in ``NAME-training/``."""
    init: Path | None = None
    """Checkpoint to start from, with or without a head of one output; None starts from random weights."""
    size: int = 320
    """Pixels, height and width; a multiple of 32."""
    epochs: int = 30
    """At the most."""
    epoch_views: int | None = None
    """Views in an epoch, drawn anew for each; None takes all."""
    batch: int = 8
    """Views in a step, at the most."""
    learning_rate: float = 1e-4
    """Adam's, at first."""
    rotation: float = 30.0
    """Degrees that a view is turned at the most."""
    patience: int = 1
    """Epochs without a lower validation loss that are borne; after one more the learning rate is divided by 10."""
    stop_after: int = 5
    """Epochs without a lower validation loss after which training ends."""
    keep: int = 5
    """How many epochs' weights are kept, those of the lowest validation losses."""
    validation_share: float = 0.1
    """Of patients, where the archive has not both ``train/`` and ``valid/``."""
    seed: int = 0
    device: str = "auto"
    """``auto``, ``cpu`` or ``cuda``."""
    precision: str = "auto"
    """Of the network's body: ``fp32``, or mixed, ``fp16`` (GPU) or ``bf16``; weights and head stay in FP32. ``auto`` is
    fp16 on a GPU and fp32 on a CPU."""
    save_minutes: float = 5.0
    """Minutes between savings of the state within an epoch."""
    half: bool = False
    """Write ``out`` in half precision."""
    resume: bool = False
    overwrite: bool = False

    def __post_init__(self) -> None:
        checks = {
            f"--size {self.size}: a multiple of 32, 32 or more": self.size >= 32 and self.size % 32 == 0,
            f"--epochs {self.epochs}: 1 or more": self.epochs >= 1,
            f"--epoch-views {self.epoch_views}: 2 or more": self.epoch_views is None or self.epoch_views >= 2,
            f"--batch {self.batch}: 4 or more, for the batch norms": self.batch >= 4,
            f"--learning-rate {self.learning_rate}: a number above 0": 0 < self.learning_rate < math.inf,
            f"--rotation {self.rotation}: 0 to 180": 0 <= self.rotation <= 180,
            f"--patience {self.patience}: 0 or more": self.patience >= 0,
            f"--stop-after {self.stop_after}: 1 or more": self.stop_after >= 1,
            f"--keep {self.keep}: 1 or more": self.keep >= 1,
            f"--save-minutes {self.save_minutes}: 0 or more": self.save_minutes >= 0,
            f"--validation-share {self.validation_share}: above 0, below 1": 0 < self.validation_share < 1,
            f"--seed {self.seed}: 0 or more": self.seed >= 0,
            f"--device {self.device}: auto, cpu or cuda": self.device in ("auto", "cpu", "cuda"),
            f"--precision {self.precision}: auto, {', '.join(PRECISIONS)}": self.precision in ("auto", *PRECISIONS),
            f"{self.out}: name the output *.safetensors": self.out.suffix == ".safetensors",
            "--resume and --overwrite: choose one": not (self.resume and self.overwrite),
        }
        for message, holds in checks.items():
            if not holds:
                raise UsageError(message)

    @property
    def folder(self) -> Path:
        """What a run needs on its way, and its records."""
        return self.out.with_name(f"{self.out.stem}-training")

    def recipe(self, images: str) -> dict[str, str]:
        """What decides the weights, with the fingerprint of the images: a run goes on only with the same."""
        decisive = (
            *("size", "epoch_views", "batch", "learning_rate", "rotation", "patience", "validation_share", "seed"),
            "precision",
        )
        init = sha256_of(self.init) if self.init else "random weights"
        return {"images": images, "init": init} | {name: str(getattr(self, name)) for name in decisive}
