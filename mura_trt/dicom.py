"""DICOM files: what a header says of image and study, and the pixels as a viewer shows them at first.

Nothing that pydicom says of a file is passed on, for its warnings and errors quote values, and a value may be a name.
"""

from __future__ import annotations

import io
import logging
import re
import struct
import threading
import warnings
import zlib
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mura_trt.convert import Plain, binary_pgm
from mura_trt.errors import EnvironmentProblem
from mura_trt.screen import JPEG_MAGIC, Rejected, check_size

if TYPE_CHECKING:
    from pydicom import FileDataset

_MARK = b"DICM"
# Without the preamble a file begins with group 2, a data set alone mostly with group 8, in either order (PS3.5, 7.1).
_BEGINNINGS = (b"\x02\0\0\0UL", b"\x08\0", b"\0\x08\0")
_LONG_LENGTHS = frozenset(b"OB OD OF OL OV OW SQ SV UC UN UR UT UV".split())  # PS3.5, 7.1.2
_DEFLATED, _EXPLICIT = b"1.2.840.10008.1.2.1.99", b"1.2.840.10008.1.2.1"
_MAX_INFLATED = 1 << 28  # bytes of a deflated data set

# Tags, in the order in which they lie in a file.
_CLASS, _BODY_PART, _STUDY, _ROWS, _COLUMNS = 0x00080016, 0x00180015, 0x0020000D, 0x00280010, 0x00280011
# PS3.16, annex L, as far as a radiograph shows it. Nothing else is passed on, for a free word would do for a name.
BODY_PARTS = frozenset({
    "ABDOMEN", "ANKLE", "ARM", "CALCANEUS", "CALF", "CHEST", "CLAVICLE", "COCCYX", "CSPINE", "CTSPINE", "ELBOW",
    "EXTREMITY", "FACE", "FEMUR", "FIBULA", "FINGER", "FOOT", "FOREARM", "HAND", "HEAD", "HIP", "HUMERUS",
    "ILIUM", "JAW", "KNEE", "LEG", "LSPINE", "LSSPINE", "MAXILLA", "NECK", "NOSE", "ORBIT", "PATELLA", "PELVIS",
    "RADIUS", "RADIUSULNA", "RIB", "SCAPULA", "SHOULDER", "SKULL", "SPINE", "SSPINE", "STERNUM", "THIGH", "THUMB",
    "TIBIA", "TIBIAFIBULA", "TLSPINE", "TMJ", "TOE", "TSPINE", "ULNA", "WHOLEBODY", "WRIST", "ZYGOMA",
})  # fmt: skip

_GRAY = ("MONOCHROME1", "MONOCHROME2")
_COLORS = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT", "PALETTE COLOR")
_JPEG_2000 = b"\xff\x4f\xff\x51"
# Start-of-frame markers (ITU-T T.81, table B.1, and T.87's of JPEG-LS).
_FRAMES_OF_JPEG = (frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}) | {0xF7}

# Who warns of what a file holds.
_NOISY = re.compile(r"(pydicom|pylibjpeg|openjpeg|mura_trt\.dicom)\b")
_quiet = threading.Lock()


class Header(NamedTuple):
    """What a file's header says."""

    image: bool
    """Whether there are rows and columns, or should be: a report, a plan or a directory has none."""
    study: str
    """StudyInstanceUID; empty where there is none."""
    body_part: str
    """BodyPartExamined; empty where it is none of ``BODY_PARTS``."""


def is_dicom(data: bytes) -> bool:
    """Whether bytes, or the first 132 of them, are a DICOM file's, with or without its preamble."""
    return data[128:132] == _MARK or data.startswith(_BEGINNINGS)


def read_header(data: bytes, whole: bool) -> Header | None:
    """What a header says; None where it goes on behind ``data``.

    Parameters
    ----------
    data
        A file's first bytes.
    whole
        Whether they are all of it.

    Raises
    ------
    Rejected
        It cannot be read.
    EnvironmentProblem
        pydicom is not installed.
    """
    reached = False

    def behind(tag: int, vr: str | None, length: int) -> bool:  # noqa: ARG001  pydicom's
        nonlocal reached
        reached = reached or tag > _COLUMNS
        return reached

    pydicom = _pydicom()
    try:
        dataset = pydicom.filereader.read_partial(
            io.BytesIO(_inflated(data)),
            stop_when=behind,
            force=True,
            specific_tags=[_CLASS, _BODY_PART, _STUDY, _ROWS, _COLUMNS],
        )
        if not reached and not whole:
            return None
        study, part = (str(dataset.get(tag).value if tag in dataset else "").strip() for tag in (_STUDY, _BODY_PART))
        kind = dataset.get("SOPClassUID") or dataset.file_meta.get("MediaStorageSOPClassUID") or ""
        # Of a class that is none of images, or not known: what a header has lost does not make an image a report.
        report = kind in pydicom.uid.UID_dictionary and "Image" not in pydicom.uid.UID(kind).name
        image = (_ROWS in dataset and _COLUMNS in dataset) or not report
    except Rejected:
        raise
    except Exception as error:  # whatever pydicom meets in broken bytes
        if not whole:
            return None
        raise _unreadable(error) from None
    return Header(image, study, part if part in BODY_PARTS else "")


def plain_dicom(data: bytes) -> Plain:
    """A DICOM image as a binary PGM of 8 bits, as a viewer shows it at first.

    Stored values go through the modality LUT or rescale slope and intercept, then through the first VOI LUT or, without
    one, the first window (PS3.3, C.11.1 and C.11.2); without either, black to white is all that the stored bits can
    hold. MONOCHROME1 and a Presentation LUT Shape of INVERSE, which mean the same (PS3.3, C.8.11.3.1.2), are inverted
    once. Color becomes luminance (ITU-R 601).

    Parameters
    ----------
    data
        A whole file, with or without the preamble.

    Raises
    ------
    Rejected
        ``NO_PIXELS``, ``MULTI_FRAME``, ``UNSUPPORTED_DEPTH``, ``UNSUPPORTED_FORMAT``, ``TOO_LARGE``, ``CORRUPT``,
        ``TRUNCATED`` or ``UNDECODABLE``.
    EnvironmentProblem
        pydicom is not installed.
    """
    pydicom = _pydicom()
    try:
        dataset = pydicom.dcmread(io.BytesIO(_inflated(data)), force=True)
        _check(dataset)
        pixels = pydicom.pixels.pixel_array(dataset)
        if pixels.shape[:2] != (dataset.Rows, dataset.Columns):
            raise Rejected("CORRUPT", "its pixels are not the rows and columns that its header says")
        color = _is_color(dataset)
        return Plain(binary_pgm(_luminance(dataset, pixels) if color else _gray(dataset, pixels)), color)
    except Rejected:
        raise
    except Exception as error:  # whatever pydicom and its decoders meet in broken bytes
        raise _unreadable(error) from None


def _pydicom() -> Any:
    try:
        import pydicom
        import pydicom.filereader
        import pydicom.pixels
        import pydicom.uid
    except ImportError as error:
        raise EnvironmentProblem(
            f"DICOM files need the extra `dicom` ({error}): pip install 'mura-trt[dicom]'"
        ) from error
    pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE
    logging.getLogger("pydicom").disabled = True
    with _quiet:
        # For good, for warnings are the process's and other threads read, too; anew where someone has undone it.
        if not any(action == "ignore" and module is _NOISY for action, _, _, module, _ in warnings.filters):
            warnings.filters.insert(0, ("ignore", None, Warning, _NOISY, 0))  # type: ignore[attr-defined]
            warnings._filters_mutated()  # type: ignore[attr-defined]
    return pydicom


def _unreadable(error: Exception) -> Rejected:
    """Without the error's own words, which may quote the file."""
    return Rejected("UNDECODABLE", f"it cannot be read as DICOM ({type(error).__name__})")


def _inflated(data: bytes) -> bytes:
    """A file of a deflated transfer syntax as one that is not; bounded, as pydicom's own unpacking is not."""
    start = 132 if data[128:132] == _MARK else 0
    end = _end_of_meta(data, start)
    at = data.find(_DEFLATED, start, end)
    if at < 0:
        return data
    unpacked = zlib.decompressobj(-zlib.MAX_WBITS).decompress(data[end:], _MAX_INFLATED)
    if len(unpacked) == _MAX_INFLATED:
        raise Rejected("TOO_LARGE", f"it unpacks to more than {_MAX_INFLATED} bytes")
    # Of the same length, for UIDs are padded with NUL.
    return data[:at] + _EXPLICIT.ljust(len(_DEFLATED), b"\0") + data[at + len(_DEFLATED) : end] + unpacked


def _end_of_meta(data: bytes, at: int) -> int:
    """Behind the elements of group 2; their group length, which may lie, is not asked."""
    while data[at : at + 2] == b"\x02\0" and at + 8 <= len(data):
        if data[at + 4 : at + 6] in _LONG_LENGTHS:
            at += 12 + int.from_bytes(data[at + 8 : at + 12], "little")
        else:
            at += 8 + int.from_bytes(data[at + 6 : at + 8], "little")
    return at


def _check(dataset: FileDataset) -> None:
    """Refuses what is no single image of bearable size; gives a data set without meta information its syntax."""
    from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian, RLELossless

    if any(name not in dataset for name in ("Rows", "Columns", "PixelData")):
        raise Rejected("NO_PIXELS", "a DICOM file without pixels: a report, a plan or the like, or cut off")
    frames = int(dataset.get("NumberOfFrames") or 1)
    if frames != 1:
        raise Rejected("MULTI_FRAME", f"it has {frames} frames; export the ones that are radiographs as images")
    check_size(dataset.Columns, dataset.Rows)
    if "PixelRepresentation" not in dataset:
        dataset.PixelRepresentation = 0
    _check_meaning(dataset)
    if "TransferSyntaxUID" not in dataset.file_meta:
        implicit, little = dataset.original_encoding
        explicit = ExplicitVRLittleEndian if little else ExplicitVRBigEndian
        dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else explicit
    if dataset.file_meta.TransferSyntaxUID.is_encapsulated:
        from pydicom.encaps import get_frame

        frame = get_frame(dataset.PixelData, 0, number_of_frames=1)
        if dataset.file_meta.TransferSyntaxUID == RLELossless:
            _check_segments(frame, dataset.Rows * dataset.Columns)
        else:
            _check_codestream(frame, (dataset.Rows, dataset.Columns, dataset.SamplesPerPixel))


def _check_meaning(dataset: FileDataset) -> None:
    allocated, stored, high = dataset.BitsAllocated, dataset.BitsStored, dataset.get("HighBit", dataset.BitsStored - 1)
    if allocated not in (8, 16) or not 0 < stored <= allocated or high != stored - 1:
        raise Rejected(
            "UNSUPPORTED_DEPTH", f"{stored} bits of {allocated}, the highest {high}: 8 and 16, from bit 0, are read"
        )
    if _is_color(dataset):
        if dataset.PhotometricInterpretation not in _COLORS:
            raise Rejected("UNSUPPORTED_FORMAT", "neither gray nor one of the colors that are read")
        if "SegmentedRedPaletteColorLookupTableData" in dataset:
            raise Rejected("UNSUPPORTED_FORMAT", "a palette in segments, which may unpack to any length")
        if dataset.PhotometricInterpretation == "PALETTE COLOR" and not dataset.original_encoding[1]:
            raise Rejected("UNSUPPORTED_FORMAT", "a palette in big-endian order, of which pydicom makes other colors")
        if dataset.SamplesPerPixel == 3 and stored != 8:
            raise Rejected("UNSUPPORTED_DEPTH", f"{stored} bits a sample in color; 8 are read")
    if dataset.SamplesPerPixel != (1 if dataset.PhotometricInterpretation in (*_GRAY, "PALETTE COLOR") else 3):
        raise Rejected("CORRUPT", "samples per pixel and photometric interpretation do not fit each other")


def _is_color(dataset: FileDataset) -> bool:
    return dataset.PhotometricInterpretation not in _GRAY


def _check_codestream(frame: bytes, expected: tuple[int, int, int]) -> None:
    """Refuses JPEG, JPEG-LS and JPEG 2000 streams of other rows, columns or samples than the header's, or that are cut.

    A stream could ask for any amount of memory, some take a decoder down, and decoders fill in for what is missing.
    """
    at = frame.find(_JPEG_2000)
    if 0 <= at < 256:  # bare, or in JP2's boxes
        right, bottom, left, top = struct.unpack_from(">4I", frame, at + 8)
        (samples,) = struct.unpack_from(">H", frame, at + 40)
        found = (bottom - top, right - left, samples)
    elif frame.startswith(JPEG_MAGIC):
        at, marker = 2, 0
        while marker not in _FRAMES_OF_JPEG:
            if at + 10 > len(frame) or frame[at] != 0xFF:
                raise Rejected("CORRUPT", "its JPEG stream has no frame header")
            marker, length = frame[at + 1], int.from_bytes(frame[at + 2 : at + 4], "big")
            found = struct.unpack_from(">HHB", frame, at + 5)
            at += 1 if marker == 0xFF else 2 + length
    else:
        raise Rejected("CORRUPT", "its compressed image is of no kind that is known")
    if found != expected:
        raise Rejected("CORRUPT", "the compressed image has other rows, columns or samples than its header says")
    if frame.rfind(b"\xff\xd9") < at:
        raise Rejected("TRUNCATED", "the compressed image ends before its end marker")


def _check_segments(frame: bytes, pixels: int) -> None:
    """Refuses RLE segments that are longer than an encoder makes them, which pydicom would unpack all the same."""
    count, *offsets = struct.unpack_from("<16I", frame)
    if not 0 < count < 16:
        raise Rejected("CORRUPT", f"it has {count} RLE segments; 1 to 15 are allowed")
    for begin, end in pairwise([*offsets[:count], len(frame)]):
        if not 64 <= begin <= end or end - begin > pixels + pixels // 64 + 64:
            raise Rejected("CORRUPT", "its RLE segments are longer than its pixels")


def _luminance(dataset: FileDataset, pixels: NDArray[Any]) -> NDArray[np.uint8]:
    """uint8 (H, W) of color pixels, or of numbers of a palette's colors."""
    from PIL import Image
    from pydicom.pixels.processing import apply_color_lut

    if dataset.PhotometricInterpretation == "PALETTE COLOR":
        pixels = apply_color_lut(pixels, dataset)[..., :3]
        if pixels.dtype == np.uint16:
            pixels = (pixels >> 8).astype(np.uint8)
    return np.asarray(Image.fromarray(pixels.astype(np.uint8, copy=False)).convert("L"))


def _gray(dataset: FileDataset, pixels: NDArray[Any]) -> NDArray[np.uint8]:
    """uint8 (H, W) of stored values; bits above those stored, which may hold overlays, are left out."""
    stored: NDArray[np.uint16] = pixels.astype(np.uint16, copy=False) & np.uint16((1 << dataset.BitsStored) - 1)
    return _shades(dataset)[stored]


def _shades(dataset: FileDataset) -> NDArray[np.uint8]:
    """uint8 (2^bits,): what each pattern of the stored bits is shown as. A table, for there are fewer than pixels."""
    stored = np.arange(1 << dataset.BitsStored)
    if dataset.PixelRepresentation == 1:
        stored[len(stored) // 2 :] -= len(stored)
    values, black, white = _rescaled(dataset, stored)
    if (looked_up := _looked_up(dataset, "VOILUTSequence", values)) is not None:
        values, white = looked_up
        black = 0.0
    elif (windowed := _windowed(dataset, values)) is not None:
        values, black, white = windowed, 0.0, 255.0
    if not (np.isfinite(values).all() and black < white):
        raise Rejected("CORRUPT", "its rescaling leaves nothing to see")
    shades: NDArray[np.uint8] = ((values - black) * (255 / (white - black))).round().clip(0, 255).astype(np.uint8)
    inverse = dataset.PhotometricInterpretation == "MONOCHROME1" or dataset.get("PresentationLUTShape") == "INVERSE"
    return np.uint8(255) - shades if inverse else shades


def _rescaled(dataset: FileDataset, stored: NDArray[np.int64]) -> tuple[NDArray[np.float64], float, float]:
    """Through the modality LUT or slope and intercept (PS3.3, C.11.1), with the least and the largest there can be."""
    if (looked_up := _looked_up(dataset, "ModalityLUTSequence", stored)) is not None:
        return looked_up[0], 0.0, looked_up[1]
    slope, intercept = dataset.get("RescaleSlope"), dataset.get("RescaleIntercept")
    values = stored * float(1 if slope in (None, "") else slope) + float(0 if intercept in (None, "") else intercept)
    return values.astype(np.float64), float(values.min()), float(values.max())


def _looked_up(dataset: FileDataset, sequence: str, values: NDArray[Any]) -> tuple[NDArray[np.float64], float] | None:
    """Through the first table of a sequence (PS3.3, C.11.1.1 and C.11.2.1.1), with the white of its bits.

    None where there is none, or none that is whole. Not pydicom's function, of which version 3.0 has indices overflow
    where a table has 8 bits, or 16 and values beyond.
    """
    items = dataset.get(sequence)
    if not items or any(name not in items[0] for name in ("LUTDescriptor", "LUTData")):
        return None
    count, first, bits = (int(number) for number in items[0].LUTDescriptor)
    count = count or 1 << 16
    data = items[0].LUTData
    if isinstance(data, bytes):  # of 8 bits each, or 16
        order = "<" if dataset.original_encoding[1] else ">"
        table = np.frombuffer(data, np.uint8 if len(data) < 2 * count else f"{order}u2")
    else:
        table = np.atleast_1d(np.array(data, np.int64))
    if not 0 < bits <= 16 or len(table) < count:
        return None
    rounded = values.round().astype(np.int64)
    if first > 0x7FFF and rounded.min() < 0:  # the sign of what is below 0, where it is stored without
        first -= 1 << 16
    return table[np.clip(rounded - first, 0, count - 1)].astype(np.float64), 2.0**bits - 1


def _windowed(dataset: FileDataset, values: NDArray[np.float64]) -> NDArray[np.float64] | None:
    """Through the first window, to 0 to 255; None where there is none, or one of no width."""
    from pydicom import Dataset
    from pydicom.pixels.processing import apply_windowing

    center, width = _first(dataset.get("WindowCenter")), _first(dataset.get("WindowWidth"))
    kind = str(dataset.get("VOILUTFunction") or "LINEAR").upper()
    if center in (None, "") or width in (None, "") or float(width) < (1 if kind == "LINEAR" else 1e-9):
        return None
    window = Dataset()
    # The window alone, for a slope below 0 would turn apply_windowing's black and white around.
    window.WindowCenter, window.WindowWidth, window.VOILUTFunction = center, width, kind
    window.PhotometricInterpretation, window.BitsStored, window.PixelRepresentation = "MONOCHROME2", 8, 0
    with np.errstate(over="ignore"):  # far from a sigmoid's center
        return np.asarray(apply_windowing(values, window), np.float64)


def _first(value: Any) -> Any:
    from pydicom.multival import MultiValue

    return value if not isinstance(value, MultiValue) else value[0] if len(value) else None
