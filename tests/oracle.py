"""torchvision's networks, which ours and imported ones are compared with."""

from __future__ import annotations

from typing import Any

import torch


def torchvision_models() -> Any:
    """``torchvision.models``, also beside a CPU build of torch.

    There, PyPI's torchvision lacks two operators, which no classifier uses.
    """
    try:
        import torchvision
    except RuntimeError:
        operators: Any = torch.library.Library("torchvision", "DEF")  # type: ignore[no-untyped-call]
        operators.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        operators.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        import torchvision
    return torchvision.models
