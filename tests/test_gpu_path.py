"""DALI's pixels in a GPU's memory, batches in flight on a real device, and whole runs: what only a GPU can show."""

from __future__ import annotations

import ctypes
import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from PIL import Image

from mura_trt.bundle import Bundle
from mura_trt.cuda_devices import LIBRARY
from mura_trt.decode import Decoder, GpuDecoder
from mura_trt.errors import RuntimeUnavailable
from mura_trt.runtimes import DevicePixels, Session, SessionOptions
from mura_trt.runtimes.base import Piece
from mura_trt.runtimes.cuda import Device
from mura_trt.score import score
from mura_trt.score_options import ScoreOptions
from tests.gpu import opened

pytestmark = pytest.mark.gpu

SIZE = (320, 320)
RUNTIMES = ["tensorrt", "tensorrt_rtx", "torch_fused", "torch_cuda", "torch"]
BATCH = 8


@pytest.fixture
def files(archive: Path) -> list[bytes]:
    return [path.read_bytes() for path in sorted(archive.rglob("*.png"))[: 3 * BATCH]]


@pytest.fixture(scope="module", params=RUNTIMES)
def loaded(request: pytest.FixtureRequest, bundle: Bundle) -> Iterator[Session]:
    """Each runtime that works on this GPU, its model loaded once; the others skip with their reason."""
    session = opened(request.param, bundle, SessionOptions(batch=BATCH))
    yield session
    session.close()


@pytest.fixture
def session(loaded: Session) -> Iterator[Session]:
    """The same, with nothing pending from one test to the next."""
    yield loaded
    while loaded.pending:  # where a test failed midway
        loaded.collect()


def on_host(pixels: DevicePixels, session: Session) -> NDArray[np.uint8]:
    """Downloaded through a device of its own on the same primary context."""
    parts = []
    with Device() as gpu:
        stream = gpu.stream()
        for piece in pixels.pieces:
            assert isinstance(piece, Piece)
            host = gpu.pinned((piece.rows, *SIZE, 1), np.uint8)
            done = gpu.event()
            gpu.download(host, piece.address, stream)
            done.record(stream)
            done.synchronize()
            parts.append(host.copy())
    return np.concatenate(parts)


def current_context() -> int | None:
    """The handle of the context that is current on this thread, as the driver has it."""
    handle = ctypes.c_void_p()
    assert ctypes.CDLL(LIBRARY).cuCtxGetCurrent(ctypes.byref(handle)) == 0
    return handle.value


def test_a_closed_device_leaves_the_thread_as_it_was() -> None:
    with Device():  # which starts the driver
        pass
    before = current_context()
    with Device() as gpu:
        gpu.memory(1 << 20)
        gpu.pinned((1 << 10,), np.uint8)
        assert current_context()
        with pytest.raises(RuntimeUnavailable, match=r"no memory on .*smaller --batch"):
            gpu.memory(1 << 50)
    assert current_context() == before


def decoder_for(session: Session) -> GpuDecoder:
    assert session.stream is not None
    return GpuDecoder(SIZE, 2, BATCH, session.stream)


def test_pixels_decoded_for_the_gpu_are_those_of_the_cpu(session: Session, files: list[bytes]) -> None:
    on_gpu, on_cpu = decoder_for(session), Decoder(SIZE, 2, BATCH)
    for decoder in (on_gpu, on_cpu):
        decoder.submit(files[:BATCH])
    pixels, expected = on_gpu.collect(), on_cpu.collect()
    assert pixels.kept == expected.kept == list(range(BATCH))
    session.run(pixels.pixels)  # behind which the stream is through with them
    difference = np.abs(on_host(pixels.pixels, session).astype(int) - expected.pixels)
    assert difference[:, 2:-2, 2:-2].max() <= 1
    assert difference.max() <= 12


def test_a_jpeg_gets_the_same_pixels_in_any_company(session: Session, files: list[bytes]) -> None:
    jpegs = []
    for data in files[:BATCH]:
        out = io.BytesIO()
        Image.open(io.BytesIO(data)).save(out, "JPEG", quality=90)
        jpegs.append(out.getvalue())
    found = []
    for size in (BATCH, 3, 1):
        decoder, parts = decoder_for(session), []
        for start in range(0, BATCH, size):
            decoder.submit(jpegs[start : start + size])
            decoded = decoder.collect()
            session.run(decoded.pixels)  # behind which the stream is through with them
            parts.append(on_host(decoded.pixels, session))
        found.append(np.concatenate(parts))
    for one in found[1:]:
        np.testing.assert_array_equal(one, found[0])


def test_bad_files_cost_no_other_file_its_pixels_on_a_gpu(session: Session, files: list[bytes]) -> None:
    broken = bytearray(files[2])
    at = broken.index(b"IDAT") + 12
    broken[at : at + 200] = b"\xff" * 200
    decoder = decoder_for(session)
    decoder.submit([*files[:2], bytes(broken), *files[3:BATCH]])
    decoder.submit(files[BATCH : 2 * BATCH])
    first, second = decoder.collect(), decoder.collect()
    assert [position for position, _ in first.rejected] == [2]
    assert first.kept == [0, 1, *range(3, BATCH)]
    scores = session.run(first.pixels).logit.copy()
    alone = Decoder(SIZE, 2, BATCH)
    alone.submit([*files[:2], *files[3:BATCH]])
    np.testing.assert_allclose(scores, session.run(alone.collect().pixels).logit, atol=0.2, rtol=0)
    assert len(second.pixels) == BATCH


def test_batches_in_flight_come_out_in_order_with_their_own_scores(session: Session, files: list[bytes]) -> None:
    decoder = decoder_for(session)
    batches = [files[:BATCH], files[BATCH : 2 * BATCH - 3], files[2 * BATCH :], files[:1]]
    expected = []
    for batch in batches:
        decoder.submit(batch)
        expected.append(session.run(decoder.collect().pixels).logit.copy())
    found = []
    for _ in range(20):
        for batch in batches:
            decoder.submit(batch)
            pixels = decoder.collect().pixels
            if not session.room:
                found.append(session.collect().logit.copy())
            session.submit(pixels)
            del pixels  # what is in flight keeps it
    while session.pending:
        found.append(session.collect().logit.copy())
    for number, logit in enumerate(found):
        np.testing.assert_array_equal(logit, expected[number % len(batches)])


def test_a_view_gets_the_same_bits_in_any_company_on_a_gpu(session: Session, files: list[bytes]) -> None:
    decoder = Decoder(SIZE, 2, BATCH)
    decoder.submit(files[:BATCH])
    pixels = decoder.collect().pixels.copy()
    whole = session.run(pixels).logit.copy()
    np.testing.assert_array_equal(session.run(pixels[::-1].copy()).logit[::-1], whole)
    np.testing.assert_array_equal([session.run(pixels[at : at + 1]).logit[0] for at in range(BATCH)], whole)


@pytest.mark.parametrize("runtime", ["auto", "torch_cuda"])
def test_a_whole_run_on_a_gpu_agrees_with_one_on_the_cpu(
    runtime: str, archive: Path, bundle: Bundle, tmp_path: Path
) -> None:
    found = {}
    for name, asked, devices in (("gpu", runtime, "0"), ("again", runtime, "0"), ("cpu", "onnxruntime", "cpu")):
        options = ScoreOptions(
            archive=archive, engine=bundle.folder, out=tmp_path / name, runtime=asked, devices=devices, batch=BATCH
        )
        run = score(options)
        assert run["scored"] == run["listed"]
        assert run["device"] == ("cpu" if name == "cpu" else "cuda")
        found[name] = pd.read_csv(tmp_path / name / "views.csv")
    pd.testing.assert_frame_equal(found["gpu"], found["again"])
    # The tests' network has a random head, which makes much of half precision and of pixels that differ by 1 of 255.
    assert (found["gpu"]["probability"] - found["cpu"]["probability"]).abs().max() < 0.1
