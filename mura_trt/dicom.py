"""DICOM files: what a header says of image and study, and the pixels as a viewer shows them at first.

Nothing that pydicom says of a file is passed on, for its warnings and errors quote values, and a value may be a name.
"""

from __future__ import annotations

import io
import logging
import re
import struct
import warnings
import zlib
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mura_trt.convert import Plain, binary_pgm
from mura_trt.errors import EnvironmentProblem
from mura_trt.screen import JPEG_MAGIC, Rejected, check_size

if TYPE_CHECKING:
    from pydicom import FileDataset

_MARK = b"DICM"
_BARE = b"\x08\x00"  # of a data set without the file's preamble, which mostly begins with group 8 (PS3.5, 7.1)
_DEFLATED, _EXPLICIT = b"1.2.840.10008.1.2.1.99", b"1.2.840.10008.1.2.1"
_MAX_INFLATED = 1 << 28  # bytes of a deflated data set

# Tags, in the order in which they lie in a file.
_CLASS, _BODY_PART, _STUDY, _ROWS, _COLUMNS = 0x00080016, 0x00180015, 0x0020000D, 0x00280010, 0x00280011
_CODE_STRING = re.compile(r"[A-Z0-9 _]{1,16}")  # PS3.5, table 6.2-1: CS
_UID = re.compile(r"[0-9.]{1,64}")

_GRAY = ("MONOCHROME1", "MONOCHROME2")
_COLORS = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT", "PALETTE COLOR")
_JPEG_2000 = b"\xff\x4f\xff\x51"
# Start-of-frame markers (ITU-T T.81, table B.1, and T.87's of JPEG-LS).
_FRAMES_OF_JPEG = (frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}) | {0xF7}


class Header(NamedTuple):
    """What a file's header says."""

    image: bool
    """Whether there are rows and columns, or should be: a report, a plan or a directory has none."""
    study: str
    """StudyInstanceUID; empty where there is none."""
    body_part: str
    """BodyPartExamined; empty where there is none."""


def is_dicom(data: bytes) -> bool:
    """Whether bytes, or the first 132 of them, are a DICOM file's."""
    return data[128:132] == _MARK or data.startswith(_BARE)


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
    except Exception as error:  # whatever pydicom meets in broken bytes
        if not whole:
            return None
        raise _unreadable(error) from None
    return Header(
        image,
        study if _UID.fullmatch(study) else "",
        # A free word would do for a name; a code string does for a body part.
        part if _CODE_STRING.fullmatch(part) else "",
    )


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
    # For good: warnings are the process's, and other threads read, too. Said again each time, for others may undo it.
    warnings.filterwarnings("ignore", module=r"(pydicom|pylibjpeg|openjpeg|mura_trt\.dicom)\b")
    return pydicom


def _unreadable(error: Exception) -> Rejected:
    """Without the error's own words, which may quote the file."""
    return Rejected("UNDECODABLE", f"it cannot be read as DICOM ({type(error).__name__})")


def _inflated(data: bytes) -> bytes:
    """A file of a deflated transfer syntax as one that is not; bounded, as pydicom's own unpacking is not."""
    if data[128:132] != _MARK or len(data) < 144:
        return data
    begin = 144 + int.from_bytes(data[140:144], "little")  # behind the group length of the meta information
    at = data.find(_DEFLATED, 132, begin)
    if at < 0:
        return data
    unpacked = zlib.decompressobj(-zlib.MAX_WBITS).decompress(data[begin:], _MAX_INFLATED)
    if len(unpacked) == _MAX_INFLATED:
        raise Rejected("TOO_LARGE", f"it unpacks to more than {_MAX_INFLATED} bytes")
    # Of the same length, for UIDs are padded with NUL.
    return data[:at] + _EXPLICIT.ljust(len(_DEFLATED), b"\0") + data[at + len(_DEFLATED) : begin] + unpacked


def _check(dataset: FileDataset) -> None:
    """Refuses what is no single image of bearable size; gives a data set without meta information its syntax."""
    from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

    if any(name not in dataset for name in ("Rows", "Columns", "PixelData")):
        raise Rejected("NO_PIXELS", "a DICOM file without pixels: a report, a plan or the like, or cut off")
    frames = int(dataset.get("NumberOfFrames") or 1)
    if frames != 1:
        raise Rejected("MULTI_FRAME", f"it has {frames} frames; export the ones that are radiographs as images")
    check_size(dataset.Columns, dataset.Rows)
    _check_meaning(dataset)
    if "TransferSyntaxUID" not in dataset.file_meta:
        implicit, little = dataset.original_encoding
        explicit = ExplicitVRLittleEndian if little else ExplicitVRBigEndian
        dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else explicit
    if dataset.file_meta.TransferSyntaxUID.is_encapsulated:
        from pydicom.encaps import get_frame

        _check_codestream(get_frame(dataset.PixelData, 0, number_of_frames=1), dataset.Rows, dataset.Columns)


def _check_meaning(dataset: FileDataset) -> None:
    allocated, stored, high = dataset.BitsAllocated, dataset.BitsStored, dataset.get("HighBit", dataset.BitsStored - 1)
    if allocated not in (8, 16) or not 0 < stored <= allocated or high != stored - 1:
        raise Rejected(
            "UNSUPPORTED_DEPTH", f"{stored} bits of {allocated}, the highest {high}: 8 and 16, from bit 0, are read"
        )
    if _is_color(dataset):
        if dataset.PhotometricInterpretation not in _COLORS:
            raise Rejected("UNSUPPORTED_FORMAT", "neither gray nor one of the colors that are read")
        if dataset.PhotometricInterpretation == "PALETTE COLOR" and not dataset.original_encoding[1]:
            raise Rejected("UNSUPPORTED_FORMAT", "a palette in big-endian order, of which pydicom makes other colors")
        if dataset.SamplesPerPixel == 3 and stored != 8:
            raise Rejected("UNSUPPORTED_DEPTH", f"{stored} bits a sample in color; 8 are read")
    if dataset.SamplesPerPixel != (1 if dataset.PhotometricInterpretation in (*_GRAY, "PALETTE COLOR") else 3):
        raise Rejected("CORRUPT", "samples per pixel and photometric interpretation do not fit each other")


def _is_color(dataset: FileDataset) -> bool:
    return dataset.PhotometricInterpretation not in _GRAY


def _check_codestream(frame: bytes, rows: int, columns: int) -> None:
    """Refuses JPEG, JPEG-LS and JPEG 2000 streams of another size than the header's, and ones that are cut.

    A stream could ask for any amount of memory, and decoders fill in for what is missing.
    """
    at = frame.find(_JPEG_2000)
    if 0 <= at < 256:  # bare, or in JP2's boxes
        right, bottom, left, top = struct.unpack_from(">4I", frame, at + 8)
        found = (bottom - top, right - left)
    elif frame.startswith(JPEG_MAGIC):
        at, marker = 2, 0
        while marker not in _FRAMES_OF_JPEG:
            if at + 9 > len(frame) or frame[at] != 0xFF:
                raise Rejected("CORRUPT", "its JPEG stream has no frame header")
            marker, length = frame[at + 1], int.from_bytes(frame[at + 2 : at + 4], "big")
            found = struct.unpack_from(">HH", frame, at + 5)
            at += 1 if marker == 0xFF else 2 + length
    else:  # RLE, which pydicom bounds by the header
        return
    if found != (rows, columns):
        raise Rejected("CORRUPT", "the compressed image is not of the rows and columns that its header says")
    if frame.rfind(b"\xff\xd9") < at:
        raise Rejected("TRUNCATED", "the compressed image ends before its end marker")


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
    from pydicom import Dataset
    from pydicom.pixels.processing import apply_modality_lut, apply_voi, apply_windowing

    stored = np.arange(1 << dataset.BitsStored)
    if dataset.get("PixelRepresentation", 0) == 1:
        stored[len(stored) // 2 :] -= len(stored)
    values = np.asarray(apply_modality_lut(stored, dataset), np.float64)
    if dataset.get("VOILUTSequence"):
        values = np.asarray(apply_voi(values.round().astype(np.int64), dataset, 0), np.float64)
        black, white = 0.0, 2.0 ** dataset.VOILUTSequence[0].LUTDescriptor[2] - 1
    elif dataset.get("WindowCenter") is not None and dataset.get("WindowWidth") is not None:
        window = Dataset()
        # The window alone, for a slope below 0 would turn apply_windowing's black and white around.
        window.WindowCenter, window.WindowWidth = _first(dataset.WindowCenter), _first(dataset.WindowWidth)
        window.VOILUTFunction = dataset.get("VOILUTFunction") or "LINEAR"
        window.PhotometricInterpretation, window.BitsStored, window.PixelRepresentation = "MONOCHROME2", 8, 0
        with np.errstate(over="ignore"):  # far from a sigmoid's center
            values = np.asarray(apply_windowing(values, window))
        black, white = 0.0, 255.0
    elif dataset.get("ModalityLUTSequence"):
        black, white = 0.0, 2.0 ** dataset.ModalityLUTSequence[0].LUTDescriptor[2] - 1
    else:
        black, white = float(values.min()), float(values.max())
    if not (np.isfinite(values).all() and black < white):
        raise Rejected("CORRUPT", "its rescaling or window leaves nothing to see")
    shades: NDArray[np.uint8] = ((values - black) * (255 / (white - black))).round().clip(0, 255).astype(np.uint8)
    inverse = dataset.PhotometricInterpretation == "MONOCHROME1" or dataset.get("PresentationLUTShape") == "INVERSE"
    return np.uint8(255) - shades if inverse else shades


def _first(value: Any) -> Any:
    from pydicom.multival import MultiValue

    return value[0] if isinstance(value, MultiValue) else value
