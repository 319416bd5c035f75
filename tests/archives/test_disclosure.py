"""Hashes in place of paths and UIDs, with a salt that stays at home."""

from __future__ import annotations

import logging
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from mura_trt.archives.disclosure import Disclosure, default_salt_file
from mura_trt.errors import UsageError


def test_a_salt_is_made_once_for_its_owner_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    path = tmp_path / "new" / "salt"
    first, second = Disclosure(path), Disclosure(path)
    assert first.digest(b"DOE^JOHN") == second.digest(b"DOE^JOHN") != first.digest(b"DOE^JANE")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert len(first.digest(b"")) == 32
    assert list(path.parent.iterdir()) == [path]
    assert first.salt.hex() not in caplog.text
    assert Disclosure(tmp_path / "other").digest(b"DOE^JOHN") != first.digest(b"DOE^JOHN")


def test_uids_are_kept_where_asked(tmp_path: Path) -> None:
    kept, hashed = Disclosure(tmp_path / "salt", keep_uids=True), Disclosure(tmp_path / "salt")
    assert kept.uid("1.2.3") == "1.2.3"
    assert hashed.uid("1.2.3") == hashed.digest(b"1.2.3")
    assert kept.tag != hashed.tag


def test_threads_that_make_the_salt_at_once_have_the_same(tmp_path: Path) -> None:
    for turn in range(50):
        with ThreadPoolExecutor(8) as pool:
            salts = list(pool.map(lambda path: Disclosure(path).salt, [tmp_path / f"salt{turn}"] * 8))
        assert len(set(salts)) == 1
    assert len(list(tmp_path.iterdir())) == 50  # and nothing else is left


def test_a_salt_that_others_may_read_or_that_is_none_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "salt"
    path.write_text("0" * 64)
    path.chmod(0o644)
    with pytest.raises(UsageError, match="chmod 600"):
        _ = Disclosure(path).salt
    path.chmod(0o600)
    assert Disclosure(path).salt == bytes(32)
    path.write_text("too short")
    with pytest.raises(UsageError, match="64 hexadecimal digits"):
        _ = Disclosure(path).salt
    with pytest.raises(UsageError, match="--uid-salt-file"):
        _ = Disclosure(path / "below").salt


def test_the_salt_lies_in_the_users_configuration(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert default_salt_file() == tmp_path / "mura-trt" / "uid-salt"


def test_where_no_home_is_known_only_a_salt_is_missed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", unknown)
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    assert default_salt_file() == Path("/.config/mura-trt/uid-salt")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert default_salt_file() == tmp_path / "mura-trt" / "uid-salt"
