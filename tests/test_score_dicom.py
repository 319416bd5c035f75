"""Whole runs over DICOM archives: studies by UID, and nothing of patients in what is written."""

from __future__ import annotations

import io
import json
import logging
import zipfile
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pydicom
import pytest
from pydicom.uid import UID

from mura_trt.bundle import Bundle
from mura_trt.errors import EXIT_FAILURES, EXIT_OK, UsageError
from mura_trt.score import dry_run, score
from mura_trt.score_options import ScoreOptions
from tests.test_dicom import real

CANARY = "CANARYDOE"
UIDS = [f"1.2.826.0.1.3680043.8.498.777{study}" for study in range(3)]
# What names a patient, a place or a person, with a value that its kind allows.
IDENTIFYING = {
    "PatientName": f"{CANARY}^JOHN",
    "PatientID": f"{CANARY}-1",
    "OtherPatientNames": f"{CANARY}^J",
    "PatientAddress": f"{CANARY} STREET 1",
    "PatientMotherBirthName": CANARY,
    "PatientTelephoneNumbers": f"{CANARY} 555",
    "PatientComments": f"{CANARY} limps",
    "PatientBirthName": CANARY,
    "InstitutionName": f"{CANARY} Hospital",
    "InstitutionAddress": f"{CANARY} Road",
    "ReferringPhysicianName": f"{CANARY}^MARY",
    "PerformingPhysicianName": f"{CANARY}^ANN",
    "OperatorsName": f"{CANARY}^BOB",
    "StationName": CANARY,
    "AccessionNumber": f"{CANARY}7",
    "StudyDescription": f"hand of {CANARY}",
    "SeriesDescription": f"{CANARY} AP",
    "StudyID": CANARY,
    "ProtocolName": CANARY,
    "ImageComments": f"{CANARY} again",
    "RequestedProcedureDescription": CANARY,
}


def view(study: int, instance: int, **values: object) -> bytes:
    dataset = pydicom.dcmread(io.BytesIO(real("MR_small_RLE.dcm")))
    with pydicom.config.disable_value_validation():
        for tag, value in {**IDENTIFYING, **values}.items():
            setattr(dataset, tag, value)
    dataset.StudyInstanceUID = UID(UIDS[study])
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = UID(f"{UIDS[study]}.{instance}")
    out = io.BytesIO()
    with pydicom.config.disable_value_validation():
        dataset.save_as(out)
    return out.getvalue()


@pytest.fixture(scope="module")
def files() -> dict[str, bytes]:
    """Two studies that lie across folders, one file that is cut, and what is no image."""
    return {
        f"{CANARY}_JOHN/a/IM1": view(0, 1, BodyPartExamined="HAND"),
        f"{CANARY}_JOHN/b/IM2.dcm": view(1, 1),
        f"{CANARY}_JOHN/b/1.2.3.45": view(0, 2),
        f"{CANARY}_JANE/IM3.DCM": view(1, 2, BodyPartExamined=f"{CANARY} hand, left"),
        f"{CANARY}_JANE/cut.dcm": view(2, 1)[:3000],
        f"{CANARY}_JANE/{CANARY}.dcm": CANARY.encode() * 100,
        f"{CANARY}_JANE/bad.dcm": view(2, 2).replace(b"\x28\0\x11\0US\2\0@\0", b"\x28\0\x11\0US\2\0A\0"),
        "report.dcm": real("reportsi.dcm"),
        "DICOMDIR": real("reportsi.dcm"),
        "LICENSE": b"free",
        f"notes.{CANARY}": b"",
    }


@pytest.fixture(scope="module")
def folder(files: dict[str, bytes], tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("dicom") / "archive"
    for name, data in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return root


def options(archive: Path, bundle: Bundle, out: Path, salt: Path, **values: object) -> ScoreOptions:
    return ScoreOptions(archive, bundle.folder, out, runtime="null", uid_salt_file=salt, **values)  # type: ignore[arg-type]


def test_studies_go_by_uid_and_nothing_tells_of_patients(
    folder: Path, bundle: Bundle, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    out, salt = tmp_path / "out", tmp_path / "salt"
    run = score(options(folder, bundle, out, salt))
    assert (run["listed"], run["scored"], run["failed"], run["exit_code"]) == (7, 4, 3, EXIT_FAILURES)
    assert run["ignored_files"] == {"DICOM without an image": 2, "": 1, "other": 1}
    studies = pd.read_csv(out / "studies.csv")
    assert studies[["views", "scored"]].to_numpy().tolist().count([2, 2]) == 2
    assert studies["body_part"].fillna("").tolist().count("HAND") == 1
    assert set(pd.read_csv(out / "failures.csv")["code"]) <= {"NO_PIXELS", "UNDECODABLE", "NOT_AN_IMAGE", "CORRUPT"}
    for path in out.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            assert CANARY.encode() not in content.replace(str(folder).encode(), b""), path
            assert not any(uid.encode() in content for uid in UIDS), path
    assert CANARY not in caplog.text
    assert not any(uid in caplog.text for uid in UIDS)

    # Once more with the same salt: the same hashes; with what is kept: the same numbers beside paths and UIDs.
    again = tmp_path / "again"
    score(options(folder, bundle, again, salt))
    assert (again / "views.csv").read_bytes() == (out / "views.csv").read_bytes()
    kept = tmp_path / "kept"
    score(options(folder, bundle, kept, salt, keep_paths=True, keep_uids=True))
    views, hashed = pd.read_csv(kept / "views.csv"), pd.read_csv(out / "views.csv")
    assert views["probability"].tolist() == hashed["probability"].tolist()
    assert dict(zip(views["view"], views["study"], strict=True)) == {
        f"{CANARY}_JOHN/a/IM1": UIDS[0],
        f"{CANARY}_JOHN/b/1.2.3.45": UIDS[0],
        f"{CANARY}_JOHN/b/IM2.dcm": UIDS[1],
        f"{CANARY}_JANE/IM3.DCM": UIDS[1],
    }


def test_members_of_a_zip_are_scored_likewise(
    folder: Path, files: dict[str, bytes], bundle: Bundle, tmp_path: Path
) -> None:
    path = tmp_path / "archive.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in sorted(files):
            archive.writestr(name, files[name])
    salt = tmp_path / "salt"
    score(options(path, bundle, tmp_path / "zip", salt))
    score(options(folder, bundle, tmp_path / "folder", salt))
    packed, plain = (pd.read_csv(tmp_path / kind / "views.csv").sort_values("view") for kind in ("zip", "folder"))
    assert packed.to_numpy().tolist() == plain.to_numpy().tolist()


def test_a_run_goes_on_with_the_same_salt_only(folder: Path, bundle: Bundle, tmp_path: Path) -> None:
    out, salt = tmp_path / "out", tmp_path / "salt"
    score(options(folder, bundle, out, salt))
    before = (out / "views.csv").read_bytes()
    score(options(folder, bundle, out, salt, resume=True))
    assert (out / "views.csv").read_bytes() == before
    with pytest.raises(UsageError, match="the run began with another --uid-salt-file or --keep-uids"):
        score(options(folder, bundle, out, tmp_path / "other", resume=True))
    with pytest.raises(UsageError, match="the run began with another --uid-salt-file or --keep-uids"):
        score(options(folder, bundle, out, salt, resume=True, keep_uids=True))


def test_the_first_dicom_file_hides_the_names_of_what_was_scored_before(
    files: dict[str, bytes], make_png: Callable[[str], Path], bundle: Bundle, tmp_path: Path
) -> None:
    out, salt = tmp_path / "out", tmp_path / "salt"
    archive = tmp_path / "archive"
    make_png(f"archive/{CANARY}_ANN/st1/a.png")
    gone = make_png(f"archive/{CANARY}_EVE/st1/b.png")
    score(options(archive, bundle, out, salt))
    gone.unlink()
    assert score(options(archive, bundle, out, salt, update=True))["vanished_views"] == 1
    assert CANARY in (out / "vanished.csv").read_text()
    (archive / "x.dcm").write_bytes(next(iter(files.values())))
    with pytest.raises(UsageError, match=r"other views in the archive.*--update"):
        score(options(archive, bundle, out, salt, resume=True))
    run = score(options(archive, bundle, out, salt, update=True))
    assert (run["scored"], run["vanished_views"]) == (2, None)
    assert not [path for path in out.rglob("*") if path.is_file() and CANARY.encode() in path.read_bytes()]
    (archive / "x.dcm").unlink()
    assert score(options(archive, bundle, out, salt, update=True))["vanished_views"] is None


def test_a_salt_inside_the_output_folder_is_refused(folder: Path, bundle: Bundle, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="not inside the output folder"):
        options(folder, bundle, tmp_path / "out", tmp_path / "out" / "salt")


def test_a_dry_run_counts_dicom_files(folder: Path, bundle: Bundle, tmp_path: Path) -> None:
    found = dry_run(options(folder, bundle, tmp_path / "out", tmp_path / "salt"))
    assert found["formats"] == {".dcm": 5, "": 1, "other": 1}
    assert CANARY not in json.dumps(found)


def test_an_archive_without_dicom_needs_no_salt(archive: Path, bundle: Bundle, tmp_path: Path) -> None:
    run = score(options(archive, bundle, tmp_path / "out", tmp_path / "salt"))
    assert run["exit_code"] == EXIT_OK
    assert not (tmp_path / "salt").exists()
