"""What to score, and how."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mura_trt.archives.disclosure import Disclosure
from mura_trt.errors import UsageError
from mura_trt.heatmaps import Choice
from mura_trt.places import ALL, AUTO, CPU, places_of
from mura_trt.results import Existing
from mura_trt.runtimes import RUNTIMES
from mura_trt.studies import DEFAULT_THRESHOLD
from mura_trt.tables import FORMATS

# What computes on the CPU, where a GPU is no use: "torch", the reference, on a machine of its own takes a GPU, too.
ON_CPU = ("onnxruntime", "emulated", "torch", "null")
CLUSTERS, CLUSTER_URL = ("auto", "local"), "ray://"


@dataclass(frozen=True)
class ScoreOptions:
    """What to score and how; the fields are the options of ``mura-trt score``."""

    archive: Path | str
    """A string is a URL."""
    engine: Path
    out: Path
    runtime: str = "auto"
    devices: str = AUTO
    """Where workers work: ``auto``, ``all`` GPUs; or one each, GPUs by number (``0,2``) or ``cpu``."""
    cluster: str | None = None
    """Ray's: ``auto`` for the one that this machine is part of, ``ray://HOST:PORT``, or ``local`` for one of its own.
    None takes processes of this machine."""
    workers: int | None = None
    """In the cluster; None takes ``workers_per_gpu`` for each of its GPUs, or where it has none one for each of its
    nodes."""
    workers_per_gpu: int = 1
    """In the cluster: how many share a GPU."""
    allow_mixed: bool = False
    """Workers with and without a GPU at once: each takes the runtime that it finds, and ``views`` tells which."""
    batch: int | None = None
    """Views in a batch; None takes what suits the runtime."""
    shard_views: int | None = None
    """Views in a shard, the unit of commit and resume; None takes 256 on a CPU and 2,048 on a GPU."""
    threshold: float = DEFAULT_THRESHOLD
    """A study is abnormal when its mean probability is strictly above."""
    threshold_of: str | None = None
    """SHA-256 of the bundle that the threshold was chosen for; None where nobody says."""
    study_depth: int | None = None
    """A study is the first so many parts of a view's path; None takes the folder the view lies in."""
    root: Path | None = None
    """For a list: where its relative paths start."""
    table_format: str = "csv"
    """``csv`` or ``parquet``."""
    overwrite: bool = False
    resume: bool = False
    """Go on with the run in ``out``, where there is one."""
    retry_failed: bool = False
    """Likewise, and try the views again that have failed."""
    keep_paths: bool = False
    """Where the archive holds DICOM files: tables carry paths as they are, and not as hashes."""
    keep_uids: bool = False
    """Likewise of StudyInstanceUIDs."""
    uid_salt_file: Path | None = None
    """What hashes are keyed with; None takes the user's own. Made where it is not there."""
    update: bool = False
    """Take over from the run in ``out``, where there is one, what it has scored and has not changed since."""
    null_ms: float = 0.0
    """The ``null`` runtime's time for a batch, in milliseconds."""
    heatmaps: str | None = None
    """Of which studies class activation maps are drawn: ``abnormal``, ``all`` or ``top:N``; None draws none."""
    allow_unproven: bool = False
    """Take a bundle, too, that missed a bound when it was compared with its reference, or was never compared."""
    passing: bool = False
    """``out`` goes when the run ends, so that nobody is told of going on with it."""

    def __post_init__(self) -> None:
        if self.runtime not in ("auto", *RUNTIMES):
            raise UsageError(f"--runtime {self.runtime}: choose from auto, {', '.join(RUNTIMES)}")
        self._check_places()
        if self.table_format not in FORMATS:
            raise UsageError(f"--format {self.table_format}: choose from {', '.join(FORMATS)}")
        for name in ("batch", "shard_views", "workers", "workers_per_gpu"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UsageError(f"--{name.replace('_', '-')} {value}: give 1 or more")
        if not 0 <= self.threshold <= 1:
            raise UsageError(f"--threshold {self.threshold}: a probability, 0 to 1")
        if sum((self.overwrite, self.resume or self.retry_failed, self.update)) > 1:
            raise UsageError("--overwrite, --update and --resume or --retry-failed: choose one")
        if self.heatmaps is not None:
            Choice.parsed(self.heatmaps)  # raises
        if self.null_ms and self.runtime != "null":
            raise UsageError("--null-ms needs --runtime null")
        if self.disclosure.salt_file.resolve().is_relative_to(self.out.resolve()):
            raise UsageError(
                f"--uid-salt-file {self.disclosure.salt_file}: not inside the output folder, which may be passed on"
            )

    def _check_places(self) -> None:
        if self.cluster is None:
            if self.workers is not None or self.workers_per_gpu != 1 or self.allow_mixed:
                raise UsageError(
                    "--workers, --workers-per-gpu and --allow-mixed are of a cluster: add --cluster, or choose by"
                    " --devices"
                )
            places_of(self.devices)  # raises
            return
        if self.cluster not in CLUSTERS and not self.cluster.startswith(CLUSTER_URL):
            raise UsageError(f"--cluster {self.cluster}: give {', '.join(CLUSTERS)} or {CLUSTER_URL}HOST:PORT")
        if self.devices not in (AUTO, ALL, CPU):
            raise UsageError(f"--devices {self.devices}: with --cluster give auto, all (GPUs) or cpu")
        if self.devices == ALL and self.runtime in ON_CPU:
            raise UsageError(f"--devices all: a cluster computes {self.runtime} on the CPU; give --devices cpu")
        if self.allow_mixed and (self.devices != AUTO or self.runtime != "auto"):
            raise UsageError("--allow-mixed takes what each worker finds: leave --devices and --runtime out")

    @property
    def disclosure(self) -> Disclosure:
        """How DICOM files' paths and UIDs are shown."""
        return Disclosure.of(self.uid_salt_file, self.keep_paths, self.keep_uids)

    @property
    def device(self) -> str | None:
        """``cuda`` or ``cpu``, where the user says it."""
        if self.cluster is None:
            return places_of(self.devices)[0].device
        return {AUTO: None, ALL: "cuda", CPU: "cpu"}[self.devices]

    @property
    def existing(self) -> Existing:
        """What becomes of results that are there already."""
        if self.resume or self.retry_failed:
            return Existing.RESUME
        if self.update:
            return Existing.UPDATE
        return Existing.REPLACE if self.overwrite else Existing.REFUSE
