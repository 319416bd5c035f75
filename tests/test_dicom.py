"""DICOM files to the pixels that a viewer shows, on the real ones of pydicom and pydicom-data."""

from __future__ import annotations

import io
from pathlib import Path

import data_store
import numpy as np
import pydicom
import pydicom.encaps
import pytest
from numpy.typing import NDArray
from pydicom import FileDataset
from pydicom.data import get_testdata_file

from mura_trt.convert import Plain
from mura_trt.dicom import Header, is_dicom, plain_dicom, read_header
from mura_trt.screen import Rejected

DATA = Path(data_store.__file__).parent / "data"


def real(name: str) -> bytes:
    path = DATA / name
    found = path if path.exists() else Path(str(get_testdata_file(name, download=False)))
    return found.read_bytes()


def pixels(plain: Plain) -> NDArray[np.uint8]:
    magic, size, white, gray = plain.data.split(b"\n", 3)
    assert (magic, white) == (b"P5", b"255")
    width, height = map(int, size.split())
    return np.frombuffer(gray, np.uint8).reshape(height, width)


def shown(name: str) -> NDArray[np.uint8]:
    return pixels(plain_dicom(real(name)))


def changed(name: str, **values: object) -> bytes:
    dataset: FileDataset = pydicom.dcmread(io.BytesIO(real(name)))
    for tag, value in values.items():
        if value is None:
            delattr(dataset, tag)
        else:
            setattr(dataset, tag, value)
    out = io.BytesIO()
    dataset.save_as(out)
    return out.getvalue()


def refusal(data: bytes) -> str:
    with pytest.raises(Rejected) as refused:
        plain_dicom(data)
    return refused.value.code


def test_a_computed_radiograph_is_shown_through_its_window_and_inverted() -> None:
    stored = pydicom.dcmread(io.BytesIO(real("RG3_UNCR.dcm")))
    assert (stored.PhotometricInterpretation, stored.BitsStored) == ("MONOCHROME1", 10)
    # PS3.3, C.11.2.1.2.1, on its own here.
    center, width = float(stored.WindowCenter) - 0.5, float(stored.WindowWidth) - 1
    level = np.clip((stored.pixel_array.astype(float) - center) / width + 0.5, 0, 1)
    assert np.abs(shown("RG3_UNCR.dcm").astype(float) - 255 * (1 - level)).max() <= 0.5 + 1e-9


@pytest.mark.parametrize(
    ("compressed", "plain", "most"),
    [
        ("RG3_J2KR.dcm", "RG3_UNCR.dcm", 0),
        ("RG1_J2KR.dcm", "RG1_UNCR.dcm", 0),
        ("RG3_J2KI.dcm", "RG3_UNCR.dcm", 12),
        ("MR_small_RLE.dcm", "MR_small.dcm", 0),
        ("MR_small_jpeg_ls_lossless.dcm", "MR_small.dcm", 0),
        ("MR_small_jp2klossless.dcm", "MR_small.dcm", 0),
        ("MR_small_bigendian.dcm", "MR_small.dcm", 0),
        ("MR_small_implicit.dcm", "MR_small.dcm", 0),
        ("JPEG-LL.dcm", "JPEG2000_UNC.dcm", 1),
        ("OBXXXX1A_rle.dcm", "OBXXXX1A.dcm", 0),
        ("SC_rgb_jpeg_gdcm.dcm", "SC_rgb.dcm", 0),
    ],
)
def test_transfer_syntaxes_give_the_same_picture(compressed: str, plain: str, most: int) -> None:
    difference = np.abs(shown(compressed).astype(int) - shown(plain))
    assert difference.max() <= most


def test_files_that_store_color_are_told() -> None:
    assert [plain_dicom(real(name)).color for name in ("SC_rgb.dcm", "OBXXXX1A.dcm", "RG3_J2KR.dcm")] == [
        True,
        True,
        False,
    ]


@pytest.mark.parametrize("name", ["JPEGLSNearLossless_16.dcm", "image_dfl.dcm", "mlut_18.dcm", "vlut_04.dcm"])
def test_other_real_files_have_something_to_see(name: str) -> None:
    assert np.ptp(shown(name)) > 100


def test_either_sign_of_inversion_inverts_once() -> None:
    plain = pixels(plain_dicom(changed("MR_small.dcm")))
    for values in (
        {"PhotometricInterpretation": "MONOCHROME1"},
        {"PresentationLUTShape": "INVERSE"},
        {"PhotometricInterpretation": "MONOCHROME1", "PresentationLUTShape": "INVERSE"},
    ):
        np.testing.assert_array_equal(pixels(plain_dicom(changed("MR_small.dcm", **values))), 255 - plain)


def test_a_slope_below_zero_turns_the_window_around_once() -> None:
    plain = pixels(plain_dicom(changed("MR_small.dcm", WindowCenter=600.5, WindowWidth=801)))
    turned = changed("MR_small.dcm", WindowCenter=-599.5, WindowWidth=801, RescaleSlope=-1, RescaleIntercept=0)
    assert np.abs(pixels(plain_dicom(turned)).astype(int) - (255 - plain.astype(int))).max() <= 1


def test_without_a_window_all_that_the_bits_can_hold_is_shown() -> None:
    stored = pydicom.dcmread(io.BytesIO(real("RG3_UNCR.dcm"))).pixel_array
    gray = pixels(plain_dicom(changed("RG3_UNCR.dcm", WindowCenter=None, WindowWidth=None)))
    np.testing.assert_array_equal(gray, 255 - np.round(stored * (255 / 1023)).astype(np.uint8))


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("emri_small.dcm", "MULTI_FRAME"),
        ("liver_1frame.dcm", "UNSUPPORTED_DEPTH"),
        ("SC_rgb_16bit.dcm", "UNSUPPORTED_DEPTH"),
        ("OBXXXX1A_expb.dcm", "UNSUPPORTED_FORMAT"),
        ("reportsi.dcm", "NO_PIXELS"),
        ("MR_truncated.dcm", "UNDECODABLE"),
        ("badVR.dcm", "UNDECODABLE"),
    ],
)
def test_what_is_no_single_radiograph_is_refused(name: str, code: str) -> None:
    assert refusal(real(name)) == code


def test_a_compressed_image_that_is_cut_or_of_another_size_is_refused() -> None:
    assert refusal(changed("MR_small_jp2klossless.dcm", Rows=63)) == "CORRUPT"
    whole = real("RG3_J2KR.dcm")
    assert refusal(whole[: len(whole) * 2 // 3]) in ("NO_PIXELS", "TRUNCATED", "UNDECODABLE")


@pytest.mark.parametrize("bits", [8, 12, 16])
@pytest.mark.parametrize("sequence", ["VOILUTSequence", "ModalityLUTSequence"])
def test_tables_of_any_depth_are_looked_up(bits: int, sequence: str) -> None:
    stored = pydicom.dcmread(io.BytesIO(real("RG3_UNCR.dcm"))).pixel_array
    item = pydicom.Dataset()
    table = np.arange(1024) * ((1 << bits) - 1) // 1023
    item.add_new("LUTDescriptor", "US", [1024, 0, bits])
    item.add_new("LUTData", "US", table.tolist())
    gray = pixels(plain_dicom(changed("RG3_UNCR.dcm", WindowCenter=None, WindowWidth=None, **{sequence: [item]})))
    np.testing.assert_array_equal(gray, 255 - np.round(table * 255 / ((1 << bits) - 1)).astype(np.uint8)[stored])


def test_a_table_that_begins_below_zero_is_looked_up() -> None:
    item = pydicom.Dataset()
    item.add_new("LUTDescriptor", "US", [2048, 65536 - 1024, 8])  # -1024, stored without a sign
    item.add_new("LUTData", "OW", (np.arange(2048) // 8).astype("<u2").tobytes())
    values = {"VOILUTSequence": [item], "RescaleSlope": 1, "RescaleIntercept": -1024}
    stored = pydicom.dcmread(io.BytesIO(real("RG3_UNCR.dcm"))).pixel_array
    gray = pixels(plain_dicom(changed("RG3_UNCR.dcm", **values)))
    np.testing.assert_array_equal(gray, 255 - (stored // 8).astype(np.uint8))


@pytest.mark.parametrize(
    "values",
    [
        {"WindowWidth": 0},
        {"RescaleSlope": "", "RescaleIntercept": "", "WindowWidth": 0},
        {"VOILUTSequence": [pydicom.Dataset()], "WindowWidth": 0},
        {"PixelRepresentation": None, "WindowWidth": 0},
    ],
    ids=["window of no width", "empty slope", "table without data", "no representation"],
)
def test_what_cannot_be_used_is_as_if_it_were_not_there(values: dict[str, object]) -> None:
    plain = pixels(plain_dicom(changed("RG3_UNCR.dcm", WindowCenter=None, WindowWidth=None)))
    np.testing.assert_array_equal(pixels(plain_dicom(changed("RG3_UNCR.dcm", **values))), plain)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("SC_rgb_jpeg_dcmtk.dcm", {"SamplesPerPixel": 1, "PhotometricInterpretation": "MONOCHROME2"}),
        ("MR_small_jp2klossless.dcm", {"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB", "BitsAllocated": 8,
                                       "BitsStored": 8, "HighBit": 7, "PixelRepresentation": 0}),
    ],
    ids=["color in a gray header", "gray in a color header"],
)  # fmt: skip
def test_streams_of_other_samples_than_the_headers_reach_no_decoder(name: str, values: dict[str, object]) -> None:
    assert refusal(changed(name, **values)) == "CORRUPT"


def test_rle_segments_longer_than_their_pixels_are_refused() -> None:
    dataset = pydicom.dcmread(io.BytesIO(real("MR_small_RLE.dcm")))
    frame = pydicom.encaps.get_frame(dataset.PixelData, 0, number_of_frames=1)
    dataset.PixelData = pydicom.encaps.encapsulate([frame + bytes(1 << 20)])
    out = io.BytesIO()
    dataset.save_as(out)
    assert refusal(out.getvalue()) == "CORRUPT"


def test_files_without_preamble_are_dicom() -> None:
    whole = real("MR_small.dcm")
    assert is_dicom(whole[132:])
    np.testing.assert_array_equal(pixels(plain_dicom(whole[132:])), pixels(plain_dicom(whole)))


def test_nothing_of_a_file_is_said_in_a_refusal() -> None:
    with pytest.raises(Rejected) as refused:
        plain_dicom(real("badVR.dcm"))
    assert str(refused.value) == "it cannot be read as DICOM (ValueError)"
    assert refused.value.__suppress_context__


def test_headers_tell_images_studies_and_body_parts() -> None:
    radiograph = real("RG3_J2KR.dcm")
    uid = str(pydicom.dcmread(io.BytesIO(radiograph)).StudyInstanceUID)
    assert is_dicom(radiograph[:132])
    assert read_header(radiograph[:16384], whole=False) == Header(True, uid, "EXTREMITY")
    assert read_header(radiograph[:400], whole=False) is None
    report = read_header(real("reportsi.dcm"), whole=True)
    assert report is not None and not report.image
    for name in ("rtplan.dcm", "waveform_ecg.dcm", "dicomdirtests/DICOMDIR"):
        header = read_header(real(name), whole=True)
        assert header is not None and not header.image


def test_an_image_whose_header_is_cut_is_an_image_all_the_same() -> None:
    assert read_header(real("RG3_J2KR.dcm")[:600], whole=True) == Header(True, "", "")


def test_a_deflated_bomb_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mura_trt.dicom._MAX_INFLATED", 1 << 16)
    data = real("image_dfl.dcm")
    for lying in (data, data[:140] + bytes(4) + data[144:]):  # of the group length
        assert refusal(lying) == "TOO_LARGE"
        with pytest.raises(Rejected, match="unpacks to more"):
            read_header(lying, whole=True)


def test_random_damage_is_refused_or_gives_a_whole_picture() -> None:
    rng = np.random.default_rng(0)
    refused = read = 0
    for name in ("MR_small.dcm", "MR_small_RLE.dcm", "MR_small_jpeg_ls_lossless.dcm", "MR_small_jp2klossless.dcm"):
        whole = real(name)
        for _ in range(50):
            data = bytearray(whole[: rng.integers(200, len(whole))] if rng.random() < 0.3 else whole)
            for at in rng.integers(132, len(data), 8):
                data[at] = rng.integers(256)
            try:  # anything else that is raised fails here
                picture = pixels(plain_dicom(bytes(data)))
            except Rejected:
                refused += 1
            else:
                read += 1
                header = pydicom.dcmread(io.BytesIO(data), force=True)  # which the damage may have changed
                assert picture.shape == (header.Rows, header.Columns)
    assert refused > 20 and read > 20
