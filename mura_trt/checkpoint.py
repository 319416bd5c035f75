"""Users' checkpoint files to a model: the layouts people really save, and a clear refusal of everything else."""

from __future__ import annotations

import pickle
import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mura_trt.contract import DENSENET169
from mura_trt.errors import CheckpointError
from mura_trt.files import write_atomically
from mura_trt.model import MuraNet, Network, architecture_of, network_of

if TYPE_CHECKING:
    from torch import Tensor

# Where training scripts keep the state dict inside a saved dictionary.
_WRAPPERS = ("state_dict", "model_state_dict", "model")
# torchvision before 0.3 named a layer's parts norm.1, conv.1 (the dots came from add_module).
_OLD_NAME = re.compile(r"(denselayer\d+\.(?:norm|relu|conv))\.([12])\.")
_TORCH_MAGICS = (b"PK\3\4", b"\x80")  # a zip archive, or a bare pickle as before PyTorch 1.6
_BOOKKEEPING = "num_batches_tracked"  # in no formula of an evaluated network; absent from old checkpoints
_WANTED = (
    "DenseNet-169 or DenseNet-121 with torchvision's names and one output (classifier.weight of shape (1, 1664) or"
    " (1, 1024)); another network comes by way of ONNX: mura-trt import-onnx"
)


def load_checkpoint(path: Path, new_head: bool = False) -> MuraNet:
    """The model of a ``.pth``/``.pt`` or ``.safetensors`` file, in evaluation mode, FP32, on the CPU.

    Its architecture is told by the names of its weights. Taken: a plain state dict, or one under ``state_dict``,
    ``model_state_dict`` or ``model``; names with ``module.`` or ``model.`` in front; torchvision's old
    ``norm.1``/``conv.2`` names; a classifier that is a Linear layer or the first part of a Sequential whose second is
    the sigmoid (``classifier.0.weight``). Weights saved in half precision come back as FP32. With ``new_head``, a head
    that is missing or has other than one output, as ImageNet's has, gives way to a random one.

    Raises
    ------
    CheckpointError
        The file is missing, is no checkpoint, holds code, or is not this network's.
    """
    state = _rename(_unwrap(_read(path), path))
    # Of none that is known, DenseNet-169's names say what is missing and what is too many.
    model = MuraNet(architecture_of(state) or DENSENET169)
    if new_head:
        state = _with_head(state, model)
    _check(state, model, path)
    model.load_state_dict(state, strict=False)
    return model.eval()


def load_network(paths: Sequence[Path]) -> Network:
    """The model of a checkpoint, or the ensemble of several; raises as :func:`load_checkpoint`."""
    return network_of([load_checkpoint(path) for path in paths]).eval()


def save_checkpoint(model: MuraNet, path: Path, note: str = "", half: bool = False) -> None:
    """Writes the model as safetensors under torchvision's names; the file holds all of it or is not there.

    ``note`` goes into the file's metadata. With ``half`` the weights are rounded to half precision, 26 MB instead
    of 51; batch norms keep their statistics, which may lie outside its range.
    """
    from safetensors.torch import save

    state = {
        name: (tensor.half() if half and "running_" not in name else tensor).contiguous()
        for name, tensor in model.state_dict().items()
        if not name.endswith(_BOOKKEEPING)
    }
    write_atomically(path, save(state, {"note": note} if note else None))


def _read(path: Path) -> object:
    import torch

    if not path.is_file():
        raise CheckpointError(f"{path}: no such checkpoint file")
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return load_file(path)
        except SafetensorError as error:
            raise CheckpointError(f"{path}: not a whole safetensors file: {error}") from error
    with path.open("rb") as file:
        if not file.read(4).startswith(_TORCH_MAGICS):
            raise CheckpointError(f"{path}: not a PyTorch checkpoint; safetensors files must be named .safetensors")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of pickle protocols; what it cannot read it refuses anyway
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path}: damaged, or it holds more than tensors (a pickled object or code), which is never run; load it"
            " where you trust it and save model.state_dict() instead"
        ) from error
    except Exception as error:  # torch raises whatever it meets in broken bytes, and its advice is not ours to give
        raise CheckpointError(f"{path}: a PyTorch checkpoint that is damaged or cut off") from error


def _unwrap(content: object, path: Path) -> dict[str, Tensor]:
    from torch import Tensor

    if isinstance(content, Mapping):
        for key in _WRAPPERS:
            if isinstance(content.get(key), Mapping):
                content = content[key]
                break
    if not isinstance(content, Mapping):
        raise CheckpointError(f"{path}: holds a {type(content).__name__}; wanted a state dict of {_WANTED}")
    state = {str(name): value for name, value in content.items() if isinstance(value, Tensor)}
    if not state:
        keys = ", ".join(map(str, list(content)[:5])) or "nothing"
        raise CheckpointError(
            f"{path}: a dictionary without tensors (it has: {keys}); wanted a state dict of {_WANTED}"
        )
    return state


def _rename(state: dict[str, Tensor]) -> dict[str, Tensor]:
    for prefix in ("module.", "model."):  # DataParallel's, then Lightning's and many scripts'
        if all(name.startswith(prefix) for name in state):
            state = {name.removeprefix(prefix): tensor for name, tensor in state.items()}
    renamed = {_OLD_NAME.sub(r"\1\2.", name): tensor for name, tensor in state.items()}
    return {name.replace("classifier.0.", "classifier."): tensor for name, tensor in renamed.items()}


def _with_head(state: dict[str, Tensor], model: MuraNet) -> dict[str, Tensor]:
    """The state with the model's own head, where its head is missing or of another number of outputs."""
    head = state.get("classifier.weight")
    if head is not None and head.shape == model.classifier.weight.shape:
        return state
    own = {f"classifier.{name}": tensor for name, tensor in model.classifier.state_dict().items()}
    return {name: tensor for name, tensor in state.items() if not name.startswith("classifier.")} | own


def _check(state: dict[str, Tensor], model: MuraNet, path: Path) -> None:
    wanted = {name: tensor.shape for name, tensor in model.state_dict().items() if not name.endswith(_BOOKKEEPING)}
    head = state.get("classifier.weight")
    if head is not None and head.ndim == 2 and head.shape[0] != 1:
        raise CheckpointError(
            f"{path}: the classifier has {head.shape[0]} outputs (ImageNet's has 1,000); wanted {_WANTED}:"
            " train a head with one output first"
        )
    missing = sorted(set(wanted) - set(state))
    extra = sorted(name for name in state if name not in wanted and not name.endswith(_BOOKKEEPING))
    if missing or extra:
        raise CheckpointError(
            f"{path}: {len(missing)} weights missing{_some(missing)}, {len(extra)} not of this network{_some(extra)};"
            f" wanted {_WANTED}"
        )
    for name, shape in wanted.items():
        if state[name].shape != shape:
            raise CheckpointError(
                f"{path}: {name} has shape {tuple(state[name].shape)}, wanted {tuple(shape)} of {_WANTED}"
            )
        if not state[name].isfinite().all():
            raise CheckpointError(f"{path}: {name} holds NaN or infinite weights; the training that made it diverged")


def _some(names: list[str]) -> str:
    return f" ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})" if names else ""
