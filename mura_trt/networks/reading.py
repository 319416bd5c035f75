"""An ONNX file as it can be worked with: whole, of standard operators, with one picture as its only input."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from mura_trt.errors import UsageError
from mura_trt.networks.constants import gather_constants
from mura_trt.networks.told import LAYOUTS, Told

if TYPE_CHECKING:
    from onnx import AttributeProto, ModelProto, ValueInfoProto

LEAST_OPSET = 13  # of the operators that are put around a graph; older ones are converted to it
MOST_BYTES = 2_000_000_000  # a protobuf, which a bundle's graph is, holds 2 GiB
STANDARD = ("", "ai.onnx")
GRAY_OR_COLOR = (1, 3)


class Input(NamedTuple):
    """How a graph takes pictures."""

    name: str
    layout: str
    """``NCHW`` or ``NHWC``."""
    batch: int | None
    """Pictures at once; None where that is free."""
    channels: int
    size: tuple[int, int]
    """Height and width."""

    def shape(self, batch: int | str) -> list[int | str]:
        """Of its tensor."""
        height, width = self.size
        return [batch, self.channels, height, width] if self.layout == "NCHW" else [batch, height, width, self.channels]


def files_of(path: Path) -> list[Path]:
    """An ONNX file and those beside it that hold its weights.

    Raises
    ------
    UsageError
        There is no such file, it is no ONNX file, or one beside it is missing.
    """
    from onnx.external_data_helper import ExternalDataInfo, uses_external_data

    beside = {
        ExternalDataInfo(tensor).location for tensor in _loaded(path).graph.initializer if uses_external_data(tensor)
    }
    files = [path.parent / location for location in sorted(beside)]
    for file in files:
        if not file.is_file():
            raise UsageError(f"{path}: its weights lie in {file.name} beside it, which is missing; copy both files")
    return [path, *files]


def read_model(path: Path) -> ModelProto:
    """A file's graph with its weights, of standard operators alone and with constants among the initializers.

    Raises
    ------
    UsageError
        The file is none, or none that can be worked with; with the reason and the way out.
    """
    import onnx
    from onnx import checker, inliner, version_converter

    if sum(file.stat().st_size for file in files_of(path)) > MOST_BYTES:
        raise UsageError(f"{path}: more than 2 GB of weights, which a bundle's graph cannot hold")
    model = _loaded(path)
    try:
        onnx.load_external_data_for_model(model, str(path.parent))
        checker.check_model(model)
        model = inliner.inline_local_functions(model)
    except (checker.ValidationError, ValueError, RuntimeError) as error:
        raise UsageError(f"{path}: not a sound ONNX graph: {_first_line(error)}") from error
    foreign = sorted({f"{node.domain}.{node.op_type}" for node in model.graph.node if node.domain not in STANDARD})
    if foreign:
        raise UsageError(
            f"{path}: operators outside the ONNX standard ({', '.join(foreign[:5])}), which no other runtime knows;"
            " export the network again without them, and not from a graph that a runtime has optimized"
        )
    branching = sorted({node.op_type for node in model.graph.node if any(_is_graph(one) for one in node.attribute)})
    if branching:
        raise UsageError(
            f"{path}: it has branches or loops ({', '.join(branching)}), which depend on the image or on how it was"
            " exported; export it with torch.onnx.export(..., dynamo=True), or simplify the graph"
        )
    opset = opset_of(model)
    if opset < LEAST_OPSET:
        try:
            model = version_converter.convert_version(model, LEAST_OPSET)
            checker.check_model(model)  # what it knows nothing of, it leaves
        except Exception as error:  # the converter raises whatever it meets
            raise UsageError(
                f"{path}: its operators are of version {opset}, and cannot be brought to {LEAST_OPSET}"
                f" ({_first_line(error)}); export the network again with opset_version={LEAST_OPSET} or later"
            ) from error
    gather_constants(model)
    return model


def _is_graph(attribute: AttributeProto) -> bool:
    return attribute.HasField("g") or len(attribute.graphs) > 0


def opset_of(model: ModelProto) -> int:
    """Version of its standard operators."""
    return max((one.version for one in model.opset_import if one.domain in STANDARD), default=1)


def input_of(model: ModelProto, told: Told) -> Input:
    """How a graph takes pictures, by its own shape and, where that leaves it open, by what the user tells.

    Raises
    ------
    UsageError
        It does not take one batch of pictures in single precision, or its shape and what is told are not enough or do
        not agree.
    """
    from onnx import TensorProto

    where = told.model
    stored = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in stored]
    if len(inputs) != 1:
        names = ", ".join(value.name for value in inputs) or "none"
        raise UsageError(f"{where}: it has {len(inputs)} inputs ({names}); wanted one, which takes the picture")
    (value,) = inputs
    tensor = value.type.tensor_type
    if tensor.elem_type != TensorProto.FLOAT:
        kind = TensorProto.DataType.Name(tensor.elem_type).lower()
        raise UsageError(
            f"{where}: its input {value.name} takes {kind}, not float32; export the network in single precision (model"
            ".float()): the bundle lowers it by itself"
        )
    dims = _dims(value)
    if len(dims) != 4:
        raise UsageError(f"{where}: its input {value.name} has {len(dims)} dimensions; wanted 4, a batch of pictures")
    batch = dims[0]
    layout = told.layout or _layout(where, dims)
    channels_at = 1 if layout == "NCHW" else 3
    channels = dims[channels_at]
    if channels not in GRAY_OR_COLOR:
        raise UsageError(
            f"{where}: as {layout}, its input {value.name} of shape {_told(dims)} has {channels or 'any number of'}"
            " channels; wanted 1 or 3, fixed in the graph"
        )
    height_and_width = [dim for at, dim in enumerate(dims) if at not in (0, channels_at)]
    return Input(value.name, layout, batch, channels, _size(where, height_and_width, told.size))


def _layout(where: Path, dims: list[int | None]) -> str:
    fitting = [layout for layout, at in zip(LAYOUTS, (1, 3), strict=True) if dims[at] in GRAY_OR_COLOR]
    if len(fitting) != 1:
        raise UsageError(
            f"{where}: its input of shape {_told(dims)} does not say where the channels are; tell: --layout NCHW (as"
            " PyTorch's) or --layout NHWC (as TensorFlow's)"
        )
    return fitting[0]


def _size(where: Path, dims: list[int | None], told: tuple[int, int] | None) -> tuple[int, int]:
    if told is None and None in dims:
        raise UsageError(
            f"{where}: its graph leaves height and width of the picture open; tell what the network was trained with,"
            " such as --size 224x224"
        )
    found = tuple(own or given for own, given in zip(dims, told or dims, strict=True))
    if told is not None and found != told:
        raise UsageError(
            f"{where}: its graph takes pictures of {found[0]} x {found[1]}, not --size {told[0]}x{told[1]}; leave that"
            " out, or export the network again for that size"
        )
    height, width = found
    assert height is not None
    assert width is not None
    return height, width


def _dims(value: ValueInfoProto) -> list[int | None]:
    """Sizes; None of one that is free."""
    return [dim.dim_value if dim.dim_value > 0 else None for dim in value.type.tensor_type.shape.dim]


def _told(dims: list[int | None]) -> str:
    return "(" + ", ".join("?" if dim is None else str(dim) for dim in dims) + ")"


def _loaded(path: Path) -> ModelProto:
    import onnx
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    if not path.is_file():
        raise UsageError(f"{path}: no such ONNX file")
    try:
        model = onnx.load(path, "protobuf", load_external_data=False)  # whatever its name ends in
    except DecodeError as error:
        raise UsageError(f"{path}: not an ONNX file, or one that is cut off") from error
    if not model.graph.node:
        raise UsageError(f"{path}: not an ONNX file, or one whose graph is empty")
    return model


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
