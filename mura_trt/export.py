"""The torch module to ONNX and back: graphs that take raw pixels and carry the weights under their state names."""

from __future__ import annotations

import copy
import logging
import warnings
from pathlib import Path

from mura_trt.contract import PRECISIONS, InputContract
from mura_trt.errors import BundleError, UsageError
from mura_trt.model import MuraNet

OUTPUTS = ("probability", "logit", "cam")
OPSET = 20

_HEAD = "classifier.weight"


def export_onnx(model: MuraNet, path: Path, precision: str) -> None:
    """Writes the model as one ONNX file.

    Input ``image`` is uint8 (views, H, W, 1); outputs are ``probability`` (views,), ``logit`` (views,) and ``cam``
    (views, H/32, W/32), float32; the number of views is free. Batch norms stay apart from the convolutions: every
    runtime fuses them itself, and the initializers keep the values and names of the state dict.

    Parameters
    ----------
    model
        In FP32; it is not changed.
    path
        The file to write.
    precision
        ``fp32``, or ``fp16`` for half precision everywhere but input, normalisation and head.

    Raises
    ------
    UsageError
        Another precision.
    """
    import onnxscript.optimizer
    import torch

    if precision not in PRECISIONS:
        raise UsageError(f"precision {precision!r}: choose from {', '.join(PRECISIONS)}")
    if precision == "fp16":
        model = copy.deepcopy(model).half_body()
    contract = InputContract()
    # Two views, because an export with one takes the batch to be 1 for ever.
    example = torch.zeros((2, contract.height, contract.width, 1), dtype=torch.uint8)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch's own deprecations, inside its exporter
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)
        program = torch.onnx.export(
            model.eval(),
            (example,),
            input_names=["image"],
            output_names=list(OUTPUTS),
            dynamic_shapes=({0: torch.export.Dim("views")},),
            opset_version=OPSET,
            dynamo=True,
            optimize=False,  # its optimizer fuses batch norms into convolutions and loses their names
            verbose=False,
        )
    assert program is not None  # it is None only where a file was asked for
    onnxscript.optimizer.fold_constants(program.model)
    onnxscript.optimizer.remove_unused_nodes(program.model)
    # Folding turned the head into a 1x1 convolution's weight, the only one outside `features`; it keeps its name.
    weights = [node.inputs[1] for node in program.model.graph if node.op_type == "Conv"]
    (head,) = (weight for weight in weights if weight is not None and not str(weight.name).startswith("features."))
    head.name = _HEAD
    program.save(path, external_data=False)


def load_exported(path: Path) -> MuraNet:
    """The FP32 model of a graph that :func:`export_onnx` wrote, with the same weights to the bit.

    Raises
    ------
    BundleError
        The graph is not an FP32 export of this network.
    """
    import onnx
    import torch
    from onnx import numpy_helper

    stored = {tensor.name: tensor for tensor in onnx.load(path).graph.initializer}
    model = MuraNet()
    state = {}
    for name, parameter in model.state_dict().items():
        if name.endswith("num_batches_tracked"):
            continue
        tensor = stored.get(name)
        if tensor is None or tensor.data_type != onnx.TensorProto.FLOAT:
            raise BundleError(f"{path}: no FP32 weight {name}; the torch runtime needs an FP32 graph made by export")
        state[name] = torch.from_numpy(numpy_helper.to_array(tensor).copy()).reshape(parameter.shape)
    model.load_state_dict(state, strict=False)
    return model.eval()
