"""The torch module to ONNX and back: graphs that take raw pixels and carry the weights under their state names."""

from __future__ import annotations

import logging
import re
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from mura_trt.contract import DENSENET169, InputContract
from mura_trt.errors import BundleError
from mura_trt.files import write_atomically
from mura_trt.model import MuraNet, Network, architecture_of, network_of
from mura_trt.precision import HEAD, lower

if TYPE_CHECKING:
    import onnx

OPSET = 20


def exported(model: Network) -> onnx.ModelProto:
    """The model as an FP32 graph.

    Input ``image`` is uint8 (views, H, W, 1); outputs are ``probability`` (views,), ``logit`` (views,) and ``cam``
    (views, H/32, W/32), float32; the number of views is free. Batch norms stay apart from the convolutions: every
    runtime fuses them itself, and the initializers keep the values and names of the state dict.

    Parameters
    ----------
    model
        In FP32; it is not changed.
    """
    import onnxscript.optimizer
    import torch

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
            output_names=[*contract.outputs],
            dynamic_shapes=({0: torch.export.Dim("views")},),
            opset_version=OPSET,
            dynamo=True,
            optimize=False,  # its optimizer fuses batch norms into convolutions and loses their names
            verbose=False,
        )
    assert program is not None  # it is None only where a file was asked for
    onnxscript.optimizer.fold_constants(program.model)
    onnxscript.optimizer.remove_unused_nodes(program.model)
    # Folding turned each head into a 1x1 convolution's weight, the only ones outside `features`; they keep their names.
    weights = [node.inputs[1] for node in program.model.graph if node.op_type == "Conv"]
    heads = [weight for weight in weights if weight is not None and "features." not in str(weight.name)]
    for number, head in enumerate(heads):
        head.name = HEAD if isinstance(model, MuraNet) else f"members.{number}.{HEAD}"
    return program.model_proto


def write_graph(model: Network, out: Path, half: bool) -> None:
    """Writes the model's ONNX file: FP32, or half precision but for input, normalisation and head."""
    graph = exported(model)
    write_atomically(out, (lower(graph) if half else graph).SerializeToString())


def load_exported(path: Path) -> Network:
    """The FP32 model of a graph that :func:`exported` made, with the same weights to the bit.

    Raises
    ------
    BundleError
        The graph is not an FP32 export of this network.
    """
    import onnx
    import torch
    from onnx import numpy_helper

    stored = {tensor.name: tensor for tensor in onnx.load(path).graph.initializer}
    found = (re.fullmatch(rf"(members\.\d+\.|){re.escape(HEAD)}", name) for name in stored)
    members = sorted((match[1] for match in found if match), key=lambda prefix: (len(prefix), prefix)) or [""]
    networks = []
    for member in members:
        network = MuraNet(architecture_of(name for name in stored if name.startswith(member)) or DENSENET169)
        state = {}
        for name, parameter in network.state_dict().items():
            if name.endswith("num_batches_tracked"):
                continue
            tensor = stored.get(member + name)
            if tensor is None or tensor.data_type != onnx.TensorProto.FLOAT:
                raise BundleError(
                    f"{path}: no FP32 weight {member}{name}; the torch runtime needs an FP32 graph made by export"
                )
            state[name] = torch.from_numpy(numpy_helper.to_array(tensor).copy()).reshape(parameter.shape)
        network.load_state_dict(state, strict=False)
        networks.append(network)
    return network_of(networks).eval()
