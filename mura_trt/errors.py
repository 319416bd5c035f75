"""Every error this package raises on purpose: what happened, where, and how to go on, plus the exit code it ends in."""

from __future__ import annotations

# Exit codes of the command line.
EXIT_OK = 0
EXIT_USAGE = 2
EXIT_FAILURES = 3  # the run ended, and some views have no score
EXIT_DISAGREES = 4  # a bundle misses a bound of parity
EXIT_ENVIRONMENT = 5


class MuraTrtError(Exception):
    """Base of this package's errors; ``exit_code`` is what the command line ends with."""

    exit_code = EXIT_ENVIRONMENT


class UsageError(MuraTrtError):
    """What the user named cannot be used: a missing path, an empty archive, an option that does not fit."""

    exit_code = EXIT_USAGE


class CheckpointError(UsageError):
    """A checkpoint file is not one of this network."""


class BundleError(MuraTrtError):
    """An engine bundle is incomplete, changed, or made for something else."""


class EnvironmentProblem(MuraTrtError):
    """A library, a device or a process that the work needs is missing or failed."""


class RuntimeUnavailable(EnvironmentProblem):
    """A runtime cannot work here; ``--runtime auto`` goes on to the next one."""
