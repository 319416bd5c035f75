"""Joins a Ray cluster, or starts one on this machine, for as long as a run needs it."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from mura_trt.archives.listing import Listing
from mura_trt.cluster.shares import Node, Share, shares_of
from mura_trt.cluster.words import in_a_line
from mura_trt.cores import usable_cores
from mura_trt.crew import START_SECONDS
from mura_trt.cuda_devices import cuda_device_count
from mura_trt.errors import EnvironmentProblem
from mura_trt.processes import return_freed_memory
from mura_trt.score_options import CLUSTER_URL, ON_CPU, ScoreOptions

if TYPE_CHECKING:
    from mura_trt.crew import Hire

logger = logging.getLogger(__name__)

# Of a cluster that is started here: rows are all that goes through it, and Ray takes a third of the memory if not told.
OBJECT_STORE_BYTES = 128 << 20
CONNECT_SECONDS = 10.0
# At ray:// the head starts a process for the run. Now and then (once in ten on a busy machine, Ray 2.60) that process
# dies as it is forked, with an empty log, and Ray waits half a minute to say so; the next one starts.
CLIENT_STARTS = 3


@contextmanager
def joined(
    options: ScoreOptions, listing: Listing, runtime: str, device: str | None
) -> Iterator[tuple[Hire, list[Share]]]:
    """What starts a run's workers in the cluster, and a place for each.

    Parameters
    ----------
    options, listing
        What to score, and how.
    runtime
        What workers will be asked for.
    device
        Of the run that is gone on with; None where one begins.

    Raises
    ------
    EnvironmentProblem
        Ray is not installed, there is no cluster, it speaks another version, or it went away.
    UsageError
        It has no room for that many workers.
    """
    ray = _ray()
    from ray.exceptions import RayError

    from mura_trt.cluster.hire import Hiring
    from mura_trt.cluster.sight import Sight

    sight = Sight.of(listing)
    _init(ray, options.cluster or "")
    try:
        nodes = nodes_of(ray.nodes())
        device = "cpu" if runtime in ON_CPU else options.device or device
        shares = shares_of(nodes, options.workers, device, options.allow_mixed, options.workers_per_gpu)
        logger.info("%d workers on a cluster of %d nodes", len(shares), len(nodes))
        _warn_of_others(ray.available_resources(), shares)
        yield Hiring(sight), shares
    except (RayError, ConnectionError) as error:  # a worker's end is no error of the driver's: this is the cluster's
        raise EnvironmentProblem(
            f"--cluster {options.cluster}: it went away ({in_a_line(error)}); what is committed stays: run again with"
            " --resume when it is back"
        ) from error
    finally:
        ray.shutdown()
        return_freed_memory()  # 40 MB after a million views, which the tables would come on top of


def nodes_of(told: list[dict[str, Any]]) -> list[Node]:
    """Of what Ray tells of its nodes, those that live."""
    return [
        Node(int(node["Resources"].get("CPU", 0)), int(node["Resources"].get("GPU", 0)))
        for node in told
        if node["Alive"]
    ]


def _warn_of_others(free: dict[str, float], shares: list[Share]) -> None:
    wanted = {"CPU": sum(share.cpus for share in shares), "GPU": sum(share.gpus for share in shares)}
    lacks = [f"{count:g} {kind}s and {free.get(kind, 0):g} are free" for kind, count in wanted.items()
             if count > free.get(kind, 0) + 0.01]  # fmt: skip  # parts of GPUs are rounded, by Ray to four places
    if lacks:
        logger.warning(
            "the workers take %s: others hold the rest, and a worker waits %d minutes for room",
            ", ".join(lacks),
            START_SECONDS / 60,
        )


def _ray() -> Any:
    # Ray sends its makers how it is used, if it is not told to leave that; what is scored here is nobody's business.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # It would start a cluster for whoever still asks it for something when the run has left the one it had.
    os.environ["RAY_ENABLE_AUTO_CONNECT"] = "0"
    try:
        import ray
    except ImportError as error:
        raise EnvironmentProblem(
            f"--cluster needs Ray ({error}): pip install 'mura-trt[ray]', on every node"
        ) from error
    return ray


def _check_reachable(cluster: str) -> None:
    """Raises OSError where nothing listens at a cluster's address: Ray itself would try again for five minutes."""
    address = cluster if cluster.startswith(CLUSTER_URL) else os.environ.get("RAY_ADDRESS", "")
    host, _, port = address.removeprefix(CLUSTER_URL).rpartition(":")
    if cluster != "local" and host and port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_SECONDS).close()


def _init_at(ray: Any, cluster: str, quiet: dict[str, Any]) -> None:
    for left in reversed(range(CLIENT_STARTS)):
        try:
            ray.init(address=cluster, **quiet)
            return
        except ConnectionAbortedError as error:  # what ray:// raises where that process did not start, and no other
            if not left:
                raise
            logger.warning("--cluster %s: %s; trying again, %d of %d left", cluster, in_a_line(error), left,
                           CLIENT_STARTS - 1)  # fmt: skip


def _init(ray: Any, cluster: str) -> None:
    quiet = {"log_to_driver": False, "logging_level": logging.WARNING}
    try:
        _check_reachable(cluster)
        if cluster == "local":
            ray.init(
                address="local",
                num_cpus=usable_cores(),
                num_gpus=cuda_device_count(),
                include_dashboard=False,
                object_store_memory=OBJECT_STORE_BYTES,
                **quiet,
            )
        else:
            _init_at(ray, cluster, quiet)
    # ConnectionError and TimeoutError are OSErrors; RayErrors tell of tokens, ValueErrors of addresses.
    except (OSError, RuntimeError, ValueError, ImportError, ray.exceptions.RayError) as error:
        way = (
            "start one with: ray start --head"
            if not cluster.startswith(CLUSTER_URL)
            else "check that its head node runs, and has ray[client]"
        )
        raise EnvironmentProblem(f"--cluster {cluster}: {in_a_line(error)}; {way}") from error
