"""A bundle that differs from what was built is refused before any of it is loaded."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from mura_trt.bundle import FILES, MANIFEST, OLD_SCHEMA, SCHEMA, Bundle, new_bundle
from mura_trt.errors import BundleError, UsageError


@pytest.fixture
def copied_bundle(bundle: Bundle, tmp_path: Path) -> Path:
    return Path(shutil.copytree(bundle.folder, tmp_path / "engine"))


def flip_byte(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def add_byte(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b" ")


def test_whole_bundle_opens(bundle: Bundle, copied_bundle: Path) -> None:
    opened = Bundle.open(copied_bundle)
    assert opened.manifest == bundle.manifest
    assert opened.sha256 == bundle.sha256
    assert set(opened.manifest.files) == set(FILES)
    assert opened.manifest.builder is not None
    assert opened.manifest.builder["plan_bytes"] == opened.path("plan").stat().st_size


@pytest.mark.parametrize("spoil", [flip_byte, cut, add_byte, Path.unlink])
@pytest.mark.parametrize("name", [MANIFEST, *FILES.values()])
def test_spoiled_file_is_refused(name: str, spoil: Callable[[Path], None], copied_bundle: Path) -> None:
    spoil(copied_bundle / name)
    with pytest.raises(BundleError, match=rf"engine: .*{name}.*mura-trt build-engine"):
        Bundle.open(copied_bundle)


def test_damaged_bundle_is_refused_with_the_command_that_built_it(bundle: Bundle, copied_bundle: Path) -> None:
    (copied_bundle / FILES["plan"]).unlink()
    with pytest.raises(BundleError) as refused:
        Bundle.open(copied_bundle)
    assert bundle.manifest.builder is not None
    assert str(refused.value).endswith(f"rebuild it: {bundle.manifest.builder['rebuild']}")


def test_another_schema_is_refused(copied_bundle: Path) -> None:
    content = json.loads((copied_bundle / MANIFEST).read_text())
    (copied_bundle / MANIFEST).write_text(json.dumps({**content, "schema": SCHEMA + 1}))
    with pytest.raises(BundleError, match=f"schema {SCHEMA + 1}.*reads {SCHEMA}"):
        Bundle.open(copied_bundle)


@pytest.mark.parametrize("content", ["", "{}", "[]", "null", f'{{"schema": {SCHEMA}}}'])
def test_something_else_is_refused(content: str, tmp_path: Path) -> None:
    (tmp_path / MANIFEST).write_text(content)
    with pytest.raises(BundleError, match=r"bundle\.json"):
        Bundle.open(tmp_path)


def test_edited_manifest_is_refused_though_it_is_well_formed(copied_bundle: Path) -> None:
    path = copied_bundle / MANIFEST
    path.write_text(path.read_text().replace('"precision": "fp16"', '"precision": "fp32"'))
    with pytest.raises(BundleError, match="changed after it was written"):
        Bundle.open(copied_bundle)


def test_new_bundle_is_whole_or_not_there(tmp_path: Path) -> None:
    target = tmp_path / "a" / "engine"
    with pytest.raises(ZeroDivisionError), new_bundle(target, overwrite=False) as folder:
        (folder / "x").write_text(str(1 / 0))
    assert list((tmp_path / "a").iterdir()) == []
    with new_bundle(target, overwrite=False) as folder:
        (folder / MANIFEST).touch()
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["engine"]


def test_nothing_is_replaced_unasked(copied_bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--overwrite"), new_bundle(copied_bundle, overwrite=False):
        pass
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "holiday.jpg").touch()
    with pytest.raises(UsageError, match="no engine bundle"), new_bundle(tmp_path / "photos", overwrite=True):
        pass
    assert (tmp_path / "photos" / "holiday.jpg").exists()
    with pytest.raises(ZeroDivisionError), new_bundle(copied_bundle, overwrite=True) as folder:
        (folder / "x").write_text(str(1 / 0))
    assert Bundle.open(copied_bundle)
    (copied_bundle / "cache").mkdir()
    with new_bundle(copied_bundle, overwrite=True) as folder:
        (folder / "new").touch()
    assert [path.name for path in copied_bundle.iterdir()] == ["new"]


def test_what_lies_beside_a_bundle_is_not_deleted_with_it(copied_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("mine.pth", "notes.txt"):
        (copied_bundle / name).write_text("precious")
    wanted = r"holds more than its bundle \(mine\.pth, notes\.txt\).*move that away"
    with pytest.raises(UsageError, match=wanted), new_bundle(copied_bundle, overwrite=True):
        pass
    for name in ("mine.pth", "notes.txt"):
        assert (copied_bundle / name).read_text() == "precious"
        (copied_bundle / name).unlink()
    link = copied_bundle.with_name("link")
    link.symlink_to(copied_bundle)
    monkeypatch.setattr(Path, "is_mount", lambda path: path == copied_bundle)
    with pytest.raises(UsageError, match=r"mount point.*name a folder in it"), new_bundle(link, overwrite=True):
        pass
    with pytest.raises(UsageError, match="no engine bundle"), new_bundle(copied_bundle / MANIFEST, overwrite=True):
        pass
    assert Bundle.open(copied_bundle)


def as_before(folder: Path) -> Path:
    """The manifest as earlier versions wrote it: with a stride for the map, and with nothing of the network."""
    path = folder / MANIFEST
    content = json.loads(path.read_text())
    for name in ("digest", "network", "imported"):
        del content[name]
    content["schema"] = OLD_SCHEMA
    content["contract"] = {**content["contract"], "stride": 32}
    del content["contract"]["map_shape"]

    def rendered(**more: str) -> bytes:
        return (json.dumps({**content, **more}, indent=2, sort_keys=True) + "\n").encode()

    path.write_bytes(rendered(digest=hashlib.sha256(rendered()).hexdigest()))
    return path


def test_a_bundle_of_an_older_version_is_read(bundle: Bundle, copied_bundle: Path) -> None:
    path = as_before(copied_bundle)
    opened = Bundle.open(copied_bundle)
    assert opened.manifest == bundle.manifest
    assert (opened.contract.map_shape, opened.manifest.network) == ((10, 10), "densenet169")
    assert opened.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    path.write_text(path.read_text().replace('"precision": "fp16"', '"precision": "fp32"'))
    with pytest.raises(BundleError, match="changed after it was written"):
        Bundle.open(copied_bundle)
