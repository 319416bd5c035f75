"""A worker as an actor: this runs on a node of the cluster."""

from __future__ import annotations

from queue import Empty, SimpleQueue
from typing import Any

from mura_trt import worker
from mura_trt.cluster.sight import Sight
from mura_trt.errors import MuraTrtError
from mura_trt.worker import Fatal, Ready, WorkerConfig

END = None  # of what an actor's worker says


class QueueLine:
    """A :class:`~mura_trt.worker.Line` within a process: the actor's other threads pass on what it takes and gives.

    Ray keeps no order among messages to an actor with several threads. The worker needs none: tasks may come in any,
    and where it was told too early to be content with a short batch, it asks again.
    """

    def __init__(self) -> None:
        self.to_worker: SimpleQueue[Any] = SimpleQueue()
        self.from_worker: SimpleQueue[Any] = SimpleQueue()

    def send(self, message: Any) -> None:
        """Gives a message; the first and the last of a worker tell where it is."""
        import ray

        if isinstance(message, Ready):
            message = message._replace(node=node_name(), actor=ray.get_runtime_context().get_actor_id() or "")
        elif isinstance(message, Fatal):
            message = Fatal(type(message.error)(f"node {node_name()}: {message.error}"))
        self.from_worker.put(message)

    def recv(self) -> Any:
        """The next one, when it comes."""
        return self.to_worker.get()


def node_name() -> str:
    """Address and id of this node, as in ``10.0.0.2/3f2a9c1b``: one machine may be several nodes."""
    import ray

    address: str = ray.util.get_node_ip_address()  # type: ignore[no-untyped-call]
    return f"{address}/{ray.get_runtime_context().get_node_id()[:8]}"


class WorkerActor:
    """One worker; its methods are called from the driver, each in a thread of its own."""

    def __init__(self) -> None:
        self._line = QueueLine()

    def work(self, config: WorkerConfig, sight: Sight) -> None:
        """Works until ``Stop``; what goes wrong is told by the line, as all else."""
        try:
            sight.check(config)
            worker.work(self._line, config)
        except MuraTrtError as error:
            self._line.send(Fatal(error))
        finally:
            self._line.from_worker.put(END)

    def give(self, message: Any) -> None:
        """Gives the worker a message."""
        self._line.to_worker.put(message)

    def take(self) -> list[Any]:
        """What the worker says: waits for a message, and takes what has come besides. ``END`` is the last."""
        messages = [self._line.from_worker.get()]
        while messages[-1] is not END:
            try:
                messages.append(self._line.from_worker.get_nowait())
            except Empty:
                break
        return messages
