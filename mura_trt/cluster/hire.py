"""The driver's side of a worker that is an actor."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable
from dataclasses import replace
from queue import SimpleQueue
from typing import Any

from mura_trt.cluster.actor import END, WorkerActor
from mura_trt.cluster.shares import Share
from mura_trt.cluster.sight import Sight
from mura_trt.cluster.words import in_a_line
from mura_trt.places import AnyPlace
from mura_trt.worker import Stop, WorkerConfig

logger = logging.getLogger(__name__)

END_SECONDS = 10.0  # for a worker that is to end by itself
THREADS = 3  # of an actor: it works, takes messages and gives some, all at once


class Hiring:
    """What starts workers in a cluster: a :data:`~mura_trt.crew.Hire`.

    Parameters
    ----------
    sight
        What each must see.
    """

    def __init__(self, sight: Sight) -> None:
        self._sight = sight
        self._begun: set[AnyPlace] = set()

    def __call__(self, config: WorkerConfig, inbox: SimpleQueue[tuple[Any, Any]]) -> ActorHandle:
        """Starts one; who replaces another has files' changes told by their own rows."""
        sight = self._sight.of_a_replacement() if config.place in self._begun else self._sight
        self._begun.add(config.place)
        return ActorHandle(config, inbox, sight)


class ActorHandle:
    """A :class:`~mura_trt.crew.Handle` of an actor, which is started with it on whichever node has room.

    Parameters
    ----------
    config
        What the worker works with; its place is a :class:`~mura_trt.cluster.shares.Share`.
    inbox
        Takes this handle with each message of the worker, and with None when it has died.
    sight
        What it must see.
    actor
        What it is: one that scores, if nothing else is said.
    """

    def __init__(
        self,
        config: WorkerConfig,
        inbox: SimpleQueue[tuple[Any, Any]],
        sight: Sight,
        actor: Callable[[], Any] = WorkerActor,
    ) -> None:
        import ray

        _check_connected()
        share = config.place
        assert isinstance(share, Share)
        self._words = "it said nothing"
        started: Any = ray.remote(actor).options(
            num_cpus=share.cpus,
            num_gpus=share.gpus,
            max_concurrency=THREADS,
            max_restarts=0,  # the crew starts another, and knows of it
            scheduling_strategy="SPREAD",
        )
        self._actor: Any = started.remote()
        # An actor has a working directory of its own.
        bundle = replace(config.bundle, folder=config.bundle.folder.absolute())
        self._work = self._actor.work.remote(replace(config, bundle=bundle), sight)
        self._taking = threading.Thread(target=self._take, args=(inbox,), name="from actor", daemon=True)
        self._taking.start()

    def _take(self, inbox: SimpleQueue[tuple[Any, Any]]) -> None:
        """Puts into the inbox what the worker says, and None when it has died or ended."""
        import ray
        from ray.exceptions import RayError

        try:
            messages: list[Any] = []
            while END not in messages:
                _check_connected()
                messages = ray.get(self._actor.take.remote())
                for message in messages:
                    if message is not END:
                        inbox.put((self, message))
            ray.get(self._work)  # raises what the worker ended in
        except (RayError, ConnectionError) as error:  # the latter where the cluster itself is gone
            self._words = in_a_line(getattr(error, "cause", None) or error)
        inbox.put((self, None))

    def send(self, message: object) -> None:
        """Gives the worker a message; where it or the cluster is gone, the inbox will tell."""
        from ray.exceptions import RayError

        with contextlib.suppress(RayError, ConnectionError):
            _check_connected()
            self._actor.give.remote(message)

    def last_words(self) -> str:
        """What Ray says of its end."""
        return self._words

    def stop(self, graceful: bool) -> None:
        """Ends the actor, by a word or at once."""
        import ray
        from ray.exceptions import RayError

        if not ray.is_initialized():  # then there is nobody to end
            return
        if graceful:
            self.send(Stop())
            try:
                ray.get(self._work, timeout=END_SECONDS)
            except (RayError, ConnectionError) as error:
                logger.warning("a worker did not end by itself: %s", in_a_line(error))
        with contextlib.suppress(RayError, ConnectionError):
            ray.kill(self._actor)
        self._taking.join(END_SECONDS)


def _check_connected() -> None:
    """Raises ConnectionError where this process has lost its cluster; Ray's client has no class for that."""
    import ray

    if not ray.is_initialized():
        raise ConnectionError("no connection to the cluster")
