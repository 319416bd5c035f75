"""A slow-down to be found, in processes that have this folder on their ``PYTHONPATH``: the product knows none of it.

Environment variable ``MURA_TRT_PLANTED``: ``decode`` decodes one image in ten twice; ``worker`` has the loop of a
worker burn a tenth of the CPU time that its process has taken since it last did.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import itertools
import os
import sys
import time
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

SHARE = 0.1
PLANTED = os.environ.get("MURA_TRT_PLANTED", "")


def slow_decode(module: ModuleType) -> None:
    """Of ``mura_trt.gray``."""
    draw, images, every = module.draw, itertools.count(1), round(1 / SHARE)

    def draw_some_twice(*arguments: Any) -> bool:
        if next(images) % every == 0:
            draw(*arguments)
        return bool(draw(*arguments))

    module.draw = draw_some_twice  # type: ignore[attr-defined]


def slow_worker(module: ModuleType) -> None:
    """Of ``mura_trt.readahead``, which the worker's loop takes its batches from."""
    next_batch = module.ReadAhead.next_batch
    since = 0.0

    def next_batch_later(self: Any) -> Any:
        nonlocal since
        now = time.process_time()
        burnt = time.thread_time() + (SHARE * (now - since) if since else 0.0)
        while time.thread_time() < burnt:
            pass
        since = time.process_time()
        return next_batch(self)

    module.ReadAhead.next_batch = next_batch_later


SLOWED: dict[str, tuple[str, Callable[[ModuleType], None]]] = {
    "decode": ("mura_trt.gray", slow_decode),
    "worker": ("mura_trt.readahead", slow_worker),
}


class _Finder(importlib.abc.MetaPathFinder):
    """Changes one module when it is imported."""

    def __init__(self, name: str, change: Callable[[ModuleType], None]) -> None:
        self._name, self._change = name, change

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname != self._name:
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            loader, execute = spec.loader, spec.loader.exec_module

            def execute_and_change(module: ModuleType) -> None:
                execute(module)
                self._change(module)

            loader.exec_module = execute_and_change  # type: ignore[method-assign]
        return spec


if PLANTED:
    sys.meta_path.insert(0, _Finder(*SLOWED[PLANTED]))
