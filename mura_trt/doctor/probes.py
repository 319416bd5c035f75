"""The checks, each called in a process of its own: one image through one library, and what came of it.

All raise what they like: that, too, is a finding. Paths come as text, because arguments travel as JSON.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import importlib.util
import io
import sys
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mura_trt.contract import InputContract
from mura_trt.cuda_devices import LIBRARY, cuda_device_count, cuda_driver, gpu_kind, nvidia_cards
from mura_trt.doctor import packages
from mura_trt.doctor.finding import ABSENT, PROBLEM, UNKNOWN, WORKS, Finding
from mura_trt.doctor.toolchain import HOW_TO_GET, missing_for_pycuda
from mura_trt.errors import BundleError, EnvironmentProblem, RuntimeUnavailable

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

# CUDA's major version -> the first driver that runs what is built for it (NVIDIA's table of minor compatibility).
DRIVERS = {12: 525, 13: 580}
PIXELS, PNG, JPEG = "pixels.npy", "view.png", "view.jpg"
_INSIDE, _BORDER = 1, 12  # levels of 255 that DALI's pixels may be off Pillow's
_GPU_INSIDE = 4  # likewise; a GPU's JPEG decoder rounds in its own way
_HALF = 1e-2  # how far half precision, of numbers up to 8, may be off double


def driver() -> Finding:
    """The NVIDIA driver and its GPUs; facts are those of :class:`mura_trt.cuda_devices.Driver`."""
    found = cuda_driver()
    facts = dataclasses.asdict(found)
    named = f"driver {found.version or 'of unknown version'}"
    wanted = packages.wheels_cuda(packages.installed())
    needed = f"{DRIVERS.get(wanted or 13, DRIVERS[13])} or later"
    if found.cuda is None:
        if found.version:
            mend = (
                "in a container: start it with the GPU (docker run --gpus all, driver capability `compute`);"
                " elsewhere install the driver's own CUDA library, which is not the toolkit's"
            )
            return Finding(PROBLEM, f"the kernel has {named}, and {LIBRARY} is missing", mend, facts=facts)
        cards = nvidia_cards()
        if cards:
            return Finding(PROBLEM, f"{cards} NVIDIA GPU(s), and no driver", f"install driver {needed}", facts=facts)
        return Finding(ABSENT, f"no NVIDIA driver ({LIBRARY} is not there), and no GPU", facts=facts)
    named += f", CUDA {found.cuda}"
    if found.problem:
        mend = (
            f"install driver {needed} anew, kernel module and libraries of one version, and restart;"
            " in a container: start it with the GPU"
        )
        return Finding(PROBLEM, f"{named}: {found.problem}", mend, facts=facts)
    if not found.gpus:
        return Finding(ABSENT, f"{named}: no GPU that this process may use", facts=facts)
    cuda = ", ".join(f"{gpu.name} ({gpu.compute_capability})" for gpu in found.gpus)
    if wanted and int(found.cuda.split(".")[0]) < wanted:
        mend = f"install driver {needed}"
        return Finding(PROBLEM, f"{named} is too old for the wheels here, which are for CUDA {wanted}; {cuda}", mend,
                       facts=facts)  # fmt: skip
    return Finding(WORKS, f"{named}; {cuda}", facts=facts)


def view(folder: str) -> Finding:
    """Draws the X-ray that the other checks see: PNG, JPEG, and pixels as Pillow reads them."""
    import numpy as np
    from PIL import Image

    from mura_trt.demo.archive import DemoPlan, demo_studies

    png = next(demo_studies(DemoPlan(1, seed=7)))[0].png
    with Image.open(io.BytesIO(png)) as image:
        gray = image.convert("L")
    Path(folder, PNG).write_bytes(png)
    gray.save(Path(folder, JPEG), quality=95)
    np.save(Path(folder, PIXELS), _resized(gray, InputContract()))
    return Finding(WORKS, f"drawn, {gray.width} x {gray.height} pixels")


def tables(folder: str) -> Finding:
    """Writes a table in each format, as ``score`` writes its results, and reads it back."""
    import pandas as pd

    from mura_trt.tables import FORMATS, read_names, write_table

    rows = pd.DataFrame({"view": [PNG, "röntgen, 2.png"], "study": ["a", "b"], "probability": [0.25, 0.75]})
    names = rows[["view", "study"]].to_numpy().tolist()
    for form in FORMATS:
        path = Path(folder, f"table.{form}")
        write_table(path, iter((rows[:1], rows[1:])))
        came_back = [name for part in read_names(path) for name in part.to_numpy().tolist()]
        if came_back != names:
            return Finding(PROBLEM, f"a {form} table of {names} reads {came_back}")
    return Finding(WORKS, f"written and read as {' and '.join(FORMATS)}")


def network(folder: str) -> Finding:
    """Makes the tiny bundle; facts are what a view's score should be, and how far it may be off."""
    import numpy as np

    from mura_trt.doctor.network import BOUND, expected, write_bundle

    if importlib.util.find_spec("onnx") is None:
        mend = "pip install onnx, or name a bundle with --engine"
        return Finding(UNKNOWN, "onnx is not installed, which the test network is made with", mend)
    score = expected(np.load(Path(folder, PIXELS)))
    write_bundle(Path(folder, "bundle"))
    return Finding(WORKS, "a network of two convolutions, FP16", facts={"expected": score, "bound": BOUND})


def engine(bundle: str) -> Finding:
    """Opens the user's bundle; facts are what the manifest tells, and how far a score may be off."""
    from mura_trt.bundle import Bundle

    try:
        manifest = Bundle.open(Path(bundle)).manifest
    except BundleError as error:
        reason, _, mend = str(error).partition("; ")
        return Finding(PROBLEM, reason, mend)
    facts = {
        "name": manifest.name,
        "precision": manifest.precision,
        "proof": manifest.parity_summary,
        "builder": manifest.builder,
        "bound": manifest.bounds["model.dp_max"],
        "expected": None,
    }
    return Finding(WORKS, f"{manifest.name}, {manifest.precision}: whole; {manifest.parity_summary}", facts=facts)


def engine_plan(bundle: str) -> Finding:
    """Loads a bundle's plan as the runtimes do, without PyCUDA; facts are whether it suits the GPU."""
    from mura_trt.bundle import Bundle
    from mura_trt.plan import BUILDERS
    from mura_trt.runtimes.loaded_plan import LoadedPlan

    opened = Bundle.open(Path(bundle))
    built = opened.manifest.builder
    if built is None:
        rebuild = "rebuild the bundle where TensorRT-RTX or TensorRT is installed: mura-trt build-engine"
        return Finding(ABSENT, "the bundle has no plan, and scores on the CPU alone", rebuild)
    made = f"{built['name']} {built['version']}, for {built['targets']}"
    gpu = gpu_kind()
    if gpu is None:
        return Finding(ABSENT, f"made by {made}; no GPU here to load it on")
    trt = _imported(BUILDERS[built["name"]])
    if isinstance(trt, Finding):
        return trt
    try:
        LoadedPlan(opened, gpu).close()
    except RuntimeUnavailable as error:
        found, _, command = str(error).partition("; rebuild it: ")
        return Finding(PROBLEM, found, f"rebuild it: {command}", facts={"suits_gpu": False})
    here = f"{trt.__name__} {trt.__version__} on {gpu.name} ({gpu.architecture})"
    return Finding(WORKS, f"{here} takes it; made by {made}", facts={"suits_gpu": True})


def decode_png(folder: str) -> Finding:
    """A PNG through the C code that ``score`` decodes most of them with."""
    import numpy as np

    from mura_trt import gray
    from mura_trt.screen import screen

    data, pixels = Path(folder, PNG).read_bytes(), np.empty_like(np.load(Path(folder, PIXELS)))
    screen(data)
    if not gray.available():
        told = "the C code is not there, for want of a compiler: DALI decodes PNG files, too, at half the speed or less"
        return Finding(ABSENT, told, "for a faster one, install mura-trt anew where a C compiler is (gcc)")
    how = gray.layout(data)
    if how is None or not gray.draw(data, how, pixels[..., 0]):
        return Finding(PROBLEM, "a sound PNG is refused")
    return _compared(pixels[None], (PNG,), folder, _INSIDE)


def decode_cpu(folder: str) -> Finding:
    """A PNG and a JPEG through DALI on the CPU."""
    return _decoded("cpu", None, folder, _INSIDE)


def decode_gpu(folder: str) -> Finding:
    """The same through DALI's ``mixed`` decoder, and resized on the GPU."""
    return _decoded("mixed", 0, folder, _GPU_INSIDE)


def plan(builder: str, folder: str) -> Finding:
    """Builds the tiny network's plan, in a bundle of the runtime's name."""
    from mura_trt.bundle import Bundle
    from mura_trt.doctor.network import with_plan
    from mura_trt.plan import BUILDERS, unsupported

    trt = _imported(BUILDERS[builder])
    if isinstance(trt, Finding):
        return trt
    if builder == "tensorrt" and cuda_device_count() == 0:
        return Finding(ABSENT, f"tensorrt {trt.__version__} imports; it builds on the GPU it builds for: none here")
    built = with_plan(Bundle.open(Path(folder, "bundle")), builder, Path(folder, BUILDERS[builder])).manifest.builder
    assert built is not None
    told = f"{builder} {built['version']} built a plan in {built['seconds']} s"
    gpu = gpu_kind()
    if gpu and (refused := unsupported(builder, gpu)):
        return Finding(ABSENT, f"{told}, for other machines alone: {refused}")
    return Finding(WORKS, told)


def runtime(name: str, folder: str, bundle: str) -> Finding:
    """One view through a runtime; facts are its ``score``, a probability."""
    from PIL import Image

    from mura_trt.bundle import Bundle
    from mura_trt.runtimes import SessionOptions, open_session

    opened = Bundle.open(Path(bundle))
    if opened.manifest.imported is not None and name in ("torch", "torch_cuda", "torch_fused"):
        return Finding(ABSENT, "the bundle's network comes from an ONNX file, and PyTorch has no module for it")
    with Image.open(Path(folder, PNG)) as image:
        pixels = _resized(image.convert("L"), opened.contract)
    session, _ = open_session(name, opened, SessionOptions())
    score = float(session.run(pixels[None]).probability[0])
    device = session.device
    session.close()
    return Finding(WORKS, f"one view on {device}", facts={"score": score})


def torch(device: str, folder: str) -> Finding:
    """The tiny network's arithmetic in PyTorch: the runtime itself takes a DenseNet-169's graph and nothing else."""
    import numpy as np
    import torch

    from mura_trt.doctor.network import BOUND, expected, normalised, weights

    if device == "cuda" and not torch.cuda.is_available():
        if torch.version.cuda is None:
            mend = "pip install --force-reinstall torch, from an index that has its CUDA build"
            return Finding(PROBLEM, f"PyTorch {torch.__version__} is a CPU build, which sees no GPU", mend)
        mend = f"install driver {DRIVERS.get(int(torch.version.cuda.split('.')[0]), DRIVERS[13])} or later"
        return Finding(PROBLEM, f"PyTorch {torch.__version__}, for CUDA {torch.version.cuda}, sees no GPU", mend)
    stem, head, bias = weights()
    pixels = np.load(Path(folder, PIXELS))
    arrays = (normalised(pixels), stem, head)
    devices = _torch_devices(device)
    scores = []
    for each in devices:
        image, wide, narrow = (torch.from_numpy(array).to(each) for array in arrays)
        features = torch.relu(torch.nn.functional.conv2d(image, wide, stride=stem.shape[-1]))
        scores.append(float(torch.sigmoid(torch.nn.functional.conv2d(features, narrow).mean() + bias)))
    right = expected(pixels)
    off = max(abs(score - right) for score in scores)
    told = (
        f"the test network's arithmetic on {', '.join(devices)}, |dp| {off:.0e}; the runtime itself takes a"
        " DenseNet-169's graph (--engine)"
    )
    if off <= BOUND and device == "cuda" and importlib.util.find_spec("pycuda") is None:
        return Finding(PROBLEM, f"{told}, and PyCUDA, which is not installed", "pip install pycuda")
    return Finding(WORKS if off <= BOUND else PROBLEM, told)


def triton(device: str) -> Finding:
    """A kernel of the runtime ``torch_fused``, with its tile, compiled for the GPU and compared with PyTorch."""
    import torch

    from mura_trt.fused import LEAST, Pointwise, Tiles, pointwise

    devices = _torch_devices(device)
    if device == "cuda" and any(torch.cuda.get_device_capability(each) < LEAST for each in devices):
        return Finding(
            ABSENT, "a GPU here is older than SM80, of whose tensor cores Triton makes no use; torch_cuda does"
        )
    tile = Tiles().pointwise[-1]
    rows, across, channels, columns = 300, 10, 96, 128  # neither rows nor channels fill their last tile
    chance = torch.Generator().manual_seed(7)
    x = torch.randn((rows, channels), generator=chance).half()
    scale, shift = torch.randn((2, channels), generator=chance)
    weight = (torch.randn((channels, columns), generator=chance) / channels**0.5).half()
    bias = torch.randn(columns, generator=chance)
    right = torch.relu(torch.relu(x.double() * scale + shift) @ weight.double() + bias)
    outputs = []
    for each in devices:
        weights = Pointwise(*(array.to(each) for array in (scale, shift, weight, bias)))
        out = torch.empty(right.shape, dtype=torch.float16, device=each)
        with torch.cuda.device(each) if device == "cuda" else contextlib.nullcontext():  # Triton's is PyTorch's current
            pointwise(x.to(each), weights, out, across, tile)
        outputs.append(out.double().cpu())
    off = float((torch.stack(outputs) - right).abs().max())  # NaN, too, goes through
    told = (
        f"Triton {metadata.version('triton')}: a kernel of the runtime's on {', '.join(devices)}, off PyTorch by"
        f" {off:.0e}; the runtime itself takes a DenseNet's graph (--engine)"
    )
    return Finding(WORKS if off <= _HALF else PROBLEM, told)


def pycuda() -> Finding:
    """PyCUDA's import and a copy to the GPU and back; where it is not installed, what building it would lack."""
    gpus = cuda_device_count()
    if importlib.util.find_spec("pycuda") is None:
        lacks = missing_for_pycuda()
        found = "not installed" + ("" if gpus else "; without a GPU nothing needs it")
        found += (
            f"; to build it, there is no {', no '.join(lacks)}" if lacks else "; all that building it needs is here"
        )
        mend = "pip install pycuda, which compiles it"
        if lacks:
            mend = f"{'; '.join(HOW_TO_GET[name] for name in lacks)}; then {mend}; or bring a wheel built elsewhere"
        return Finding(PROBLEM if gpus else ABSENT, found, mend)
    if not gpus:
        return Finding(ABSENT, "installed; no GPU to try it on")
    import numpy as np

    from mura_trt.runtimes.cuda import Device

    gpu = Device()
    stream, event, address = gpu.stream(), gpu.event(), gpu.memory(4)
    sent, received = gpu.pinned((4,), np.uint8), gpu.pinned((4,), np.uint8)
    sent[:], received[:] = (1, 2, 3, 4), 0
    gpu.upload(address, sent, stream)
    gpu.download(received, address, stream)
    event.record(stream)
    event.synchronize()
    came_back = received.tolist()
    del sent, received, stream, event
    gpu.close()
    if came_back != [1, 2, 3, 4]:
        return Finding(PROBLEM, f"1, 2, 3, 4 came back from the GPU as {came_back}")
    return Finding(WORKS, f"a copy to {gpu.name} and back")


def _torch_devices(device: str) -> list[str]:
    """PyTorch's names of the CPU, or of every GPU (``cuda``)."""
    import torch

    return [f"cuda:{ordinal}" for ordinal in range(torch.cuda.device_count())] if device == "cuda" else ["cpu"]


def _imported(module: str) -> Any:
    """TensorRT's or TensorRT-RTX's module, or the finding that it does not import."""
    try:
        return importlib.import_module(module)
    except Exception as error:  # its loader raises whatever it meets: a missing library, a stub, a driver
        return Finding(PROBLEM, f"{module} does not import: {error}", packages.LOADER if module == "tensorrt" else None)


def _resized(gray: Any, contract: InputContract) -> NDArray[np.uint8]:
    """uint8 (H, W, 1): a gray image of Pillow's at a network's size."""
    import numpy as np
    from PIL import Image

    return np.asarray(gray.resize((contract.width, contract.height), Image.Resampling.BILINEAR))[..., None]


def _decoded(device: str, gpu: int | None, folder: str, inside: int) -> Finding:
    """DALI's decoding on a device, by its name of it, and the number of the GPU; ``inside`` as for ``_compared``."""
    import numpy as np

    from mura_trt.decode import Decoded, Decoder

    class Probe(Decoder):
        _device, _gpu = device, gpu

        def _finish(self, files: list[NDArray[np.uint8]]) -> NDArray[np.uint8]:  # noqa: ARG002
            return np.asarray(self._taken().as_cpu().as_tensor())  # copied from a GPU; what is on the host stays

        def _isolate(self, files: list[NDArray[np.uint8]]) -> Decoded[NDArray[np.uint8]]:  # noqa: ARG002
            # No file is at fault: what DALI says, after where in the pipeline it was, is what was found.
            said = str(sys.exception()).rpartition("encountered:")[2]
            raise EnvironmentProblem(f"DALI: {' '.join(said.split())}")

    decoder = Probe(np.load(Path(folder, PIXELS)).shape[:2], 1, 2)
    decoder.submit([Path(folder, name).read_bytes() for name in (PNG, JPEG)])
    return _compared(decoder.collect().pixels, (PNG, JPEG), folder, inside)


def _compared(decoded: NDArray[np.uint8], names: tuple[str, ...], folder: str, inside: int) -> Finding:
    """Pixels of the files so called, uint8 (n, H, W, 1), against Pillow's."""
    import numpy as np
    from PIL import Image

    worst = 0
    for pixels, name in zip(decoded, names, strict=True):
        with Image.open(Path(folder, name)) as image:
            off = np.abs(pixels.astype(int) - _resized(image.convert("L"), InputContract()))
        worst = max(worst, int(off.max()))
        if off[1:-1, 1:-1].max() > inside or worst > _BORDER:
            return Finding(PROBLEM, f"{name}: off Pillow's pixels by {int(off.max())} of 255")
    return Finding(WORKS, f"{' and '.join(names)} as Pillow decodes them, to within {worst} of 255")
