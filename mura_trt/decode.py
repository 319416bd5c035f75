"""Image bytes to gray pixels of the network's size: one DALI graph, fed by hand so that the worker has the say."""

from __future__ import annotations

import io
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from mura_trt.errors import EnvironmentProblem
from mura_trt.runtimes.base import DevicePixels, GpuStream, Piece
from mura_trt.screen import Rejected

if TYPE_CHECKING:
    from nvidia.dali import Pipeline


P = TypeVar("P", NDArray[np.uint8], DevicePixels)


class Decoded(NamedTuple, Generic[P]):
    """A submitted batch, decoded.

    ``pixels`` is uint8 (k, H, W, 1), of the decodable files; ``kept`` holds their k positions in the batch, and
    ``rejected`` the position and reason of every other file. All are in order, but that pixels for a GPU, and ``kept``
    with them, may come in another.
    """

    pixels: P
    kept: list[int]
    rejected: list[tuple[int, Rejected]]


def check_batch(files: Sequence[bytes], most: int) -> None:
    """Raises ValueError where there are no files, or more than ``most``."""
    if not 0 < len(files) <= most:
        raise ValueError(f"a batch holds 1 to {most} files, not {len(files)}")


class BatchDecoder(ABC, Generic[P]):
    """Decodes screened files in batches, in order, in threads of its own, to pixels somewhere.

    ``submit`` returns at once and ``collect`` waits for the oldest batch, so that a caller who submits ahead overlaps
    decoding with its own work. Gray is ITU-R 601 luminance, as Pillow's ``convert("L")``; EXIF orientation is not
    applied, as Pillow's ``open`` does not.

    Parameters
    ----------
    size
        Height and width of the output in pixels.
    threads
        DALI's decoding threads.
    batch
        Files in a batch at the most.

    Attributes
    ----------
    attempted_at
        When a batch, or part of one that failed, was last begun: seconds of the monotonic clock.
    """

    _device = "cpu"  # DALI's name of where images are decoded
    _gpu: int | None = None

    def __init__(self, size: tuple[int, int], threads: int, batch: int) -> None:
        self._size, self._threads, self._batch = size, threads, batch
        self.attempted_at = time.monotonic()
        self._pipeline = self._build()
        self._waiting: deque[list[NDArray[np.uint8]]] = deque()

    @property
    def pending(self) -> int:
        """How many batches were submitted and not collected."""
        return len(self._waiting)

    def submit(self, files: Sequence[bytes]) -> None:
        """Starts decoding a batch of 1 to ``batch`` files that passed :func:`mura_trt.screen.screen`."""
        check_batch(files, self._batch)
        encoded = [np.frombuffer(data, np.uint8) for data in files]
        self._start(encoded)
        self._waiting.append(encoded)

    def collect(self) -> Decoded[P]:
        """Waits for the oldest submitted batch. A file that cannot be decoded costs no other file anything."""
        files = self._waiting.popleft()
        try:
            pixels = self._finish(files)
        except RuntimeError:
            decoded = self._isolate(files)
            for batch in self._waiting:  # the broken pipeline lost these too
                self._start(batch)
            return decoded
        return Decoded(pixels, list(range(len(files))), [])

    def _build(self) -> Pipeline:
        try:
            from nvidia.dali import Pipeline, fn, types
        except ImportError as error:
            raise EnvironmentProblem(f"DALI does not import ({error}): pip install nvidia-dali-cuda130") from error
        # A queue of 1, because a deeper one makes the first schedule_run ask for that many batches at once; batches
        # scheduled ahead of collect overlap all the same (measured: no difference between 1 and 2).
        pipeline = Pipeline(
            batch_size=self._batch,
            num_threads=self._threads,
            device_id=self._gpu,
            prefetch_queue_depth=1,
            exec_dynamic=True,
        )
        with pipeline:
            encoded = fn.external_source(name="encoded", dtype=types.UINT8, ndim=1, batch=True, no_copy=True)
            # Some GPUs have a JPEG engine, which rounds otherwise than CUDA's kernels. It gets all files that it can
            # decode, for with a share of each batch a view's pixels would hang on its company. Earlier releases did not
            # all wait for their stream; nvImageCodec 0.9.0, which DALI 2.4 takes, does by its source.
            image = fn.decoders.image(
                encoded, device=self._device, output_type=types.GRAY, adjust_orientation=False, hw_decoder_load=1.0
            )
            pipeline.set_outputs(
                fn.resize(image, size=self._size, interp_type=types.INTERP_LINEAR, antialias=True, dtype=types.UINT8)
            )
        pipeline.build()
        return pipeline

    def _start(self, files: list[NDArray[np.uint8]]) -> None:
        self.attempted_at = time.monotonic()
        self._pipeline.feed_input("encoded", files)
        self._pipeline.schedule_run()

    def _taken(self, stream: int | None = None) -> Any:
        """The oldest batch as DALI has it, ready for the host or on a stream."""
        (images,) = self._pipeline.share_outputs(cuda_stream=stream)
        self._pipeline.release_outputs()
        return images

    def close(self) -> None:
        """Nothing has to be ended."""

    @abstractmethod
    def _finish(self, files: list[NDArray[np.uint8]]) -> P:
        """Takes the oldest batch, these files, from the pipeline."""

    @abstractmethod
    def joined(self, parts: Sequence[P | NDArray[np.uint8]]) -> P:
        """Pixels from here or from the host's memory, or none, as one batch."""

    def _isolate(self, files: list[NDArray[np.uint8]]) -> Decoded[P]:
        """Decodes a batch that failed by halves, so that only the files at fault are lost; leaves a sound pipeline."""
        decoded: list[P] = []
        kept: list[int] = []
        rejected: list[tuple[int, Rejected]] = []
        parts = deque([list(enumerate(files))])
        self._pipeline = self._build()
        while parts:
            part = parts.popleft()
            pixels = self._attempt([data for _, data in part])
            if pixels is not None:
                decoded.append(pixels)
                kept.extend(position for position, _ in part)
            elif len(part) > 1:
                middle = len(part) // 2
                parts.extendleft((part[middle:], part[:middle]))
            else:
                ((position, data),) = part
                rejected.append((position, _rejection(data)))
        return Decoded(self.joined(decoded), kept, rejected)

    def _attempt(self, files: list[NDArray[np.uint8]]) -> P | None:
        try:
            self._start(files)
            return self._finish(files)
        except RuntimeError:
            self._pipeline = self._build()
            return None


class Decoder(BatchDecoder[NDArray[np.uint8]]):
    """To the host's memory, which is DALI's own, valid as long as the array lives.

    The resize is Pillow's antialiased bilinear, equal to within 1 of 255 inside and 12 on the outermost pixel.
    """

    def _finish(self, files: list[NDArray[np.uint8]]) -> NDArray[np.uint8]:  # noqa: ARG002
        return np.asarray(self._taken().as_tensor())

    def joined(self, parts: Sequence[NDArray[np.uint8]]) -> NDArray[np.uint8]:
        """Pixels, or none, as one batch."""
        return np.concatenate([np.empty((0, *self._size, 1), np.uint8), *parts])


class GpuDecoder(BatchDecoder[DevicePixels]):
    """To a GPU's memory, which is DALI's own, valid as long as the owner of a piece lives.

    JPEG files are decoded, and all are resized, on the GPU, which rounds otherwise than the CPU; PNG files are decoded
    in DALI's ``threads``. The pixels need not be there yet when ``collect`` returns: the stream waits for them.

    Parameters
    ----------
    size, threads, batch
        As for :class:`BatchDecoder`.
    stream
        What the pixels are ready for: whatever it is given next.
    """

    _device = "mixed"

    def __init__(self, size: tuple[int, int], threads: int, batch: int, stream: GpuStream) -> None:
        self._gpu, self._stream = stream.gpu, stream.handle
        super().__init__(size, threads, batch)

    def _finish(self, files: list[NDArray[np.uint8]]) -> DevicePixels:
        images = self._taken(self._stream)
        tensor = images.as_tensor()
        return DevicePixels([Piece(tensor.data_ptr(), len(files), (images, tensor, files))])

    def joined(self, parts: Sequence[DevicePixels | NDArray[np.uint8]]) -> DevicePixels:
        """Pixels on the GPU or in the host's memory, or none, as one batch, copied nowhere yet."""
        return DevicePixels.joined(parts)


def _rejection(data: NDArray[np.uint8]) -> Rejected:
    """Why a file that DALI refuses alone has no pixels, with Pillow as the second opinion.

    Where Pillow reads it, that is told and its pixels are not used: Pillow leaves rows that a file lacks unfilled.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(data.tobytes())) as image:
            image.load()
    except UnidentifiedImageError:
        return Rejected("UNDECODABLE", "neither DALI nor Pillow knows what it is")
    except Exception as error:  # Pillow's plugins raise whatever they meet in broken bytes
        return Rejected("UNDECODABLE", f"neither DALI nor Pillow can decode it: {error}")
    return Rejected("UNDECODABLE", "DALI refuses it, though Pillow reads it; look at the image and save it again")
