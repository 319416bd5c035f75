"""What is shown of DICOM files' paths and UIDs, which tell of patients: keyed hashes, where not asked otherwise."""

from __future__ import annotations

import hashlib
import logging
import os
import re
import secrets
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from mura_trt.errors import UsageError

logger = logging.getLogger(__name__)

_SALT = re.compile(r"[0-9a-f]{64}")
_UID = re.compile(r"[0-9.]{1,64}")  # PS3.5, 9.1
_DIGEST_BYTES = 16


def default_salt_file() -> Path:
    """``~/.config/mura-trt/uid-salt``, or where the XDG base directory specification has it."""
    try:
        home = Path.home()
    except RuntimeError:  # nobody knows of one: where a salt is needed, it is told that none can be kept there
        home = Path("/")
    return Path(os.environ.get("XDG_CONFIG_HOME") or home / ".config") / "mura-trt" / "uid-salt"


@dataclass(frozen=True)
class Disclosure:
    """How paths and UIDs are shown in tables: as they are where kept, else as hashes with a key that stays at home."""

    salt_file: Path
    """Made when it is first needed, for its owner alone."""
    keep_paths: bool = False
    keep_uids: bool = False

    @classmethod
    def of(cls, salt_file: Path | None, keep_paths: bool = False, keep_uids: bool = False) -> Disclosure:
        """Keyed with that file, or with the user's own."""
        return cls(salt_file or default_salt_file(), keep_paths, keep_uids)

    @cached_property
    def salt(self) -> bytes:
        """The key, 32 bytes.

        Raises
        ------
        UsageError
            The file cannot be made or read, is open to others, or holds something else.
        """
        path = self.salt_file
        try:
            if not path.exists():
                _make(path)
                logger.info("made %s: with it the hashes of other runs are the same; keep it, and keep it secret", path)
            if path.stat().st_mode & 0o077:
                raise UsageError(f"{path}: others may read the salt: chmod 600 {path}")
            text = path.read_text("ascii").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(
                f"{path}: no salt can be kept there ({error}); name a file with --uid-salt-file"
            ) from error
        if not _SALT.fullmatch(text):
            raise UsageError(f"{path}: a salt is 64 hexadecimal digits; name another file with --uid-salt-file")
        return bytes.fromhex(text)

    def digest(self, key: bytes) -> str:
        """32 hexadecimal digits: BLAKE2b of a path or UID, keyed with the salt."""
        return hashlib.blake2b(key, digest_size=_DIGEST_BYTES, key=self.salt).hexdigest()

    def uid(self, uid: str) -> str:
        """A UID as tables show it; what is none, as some tools write, is hashed in any case."""
        return uid if self.keep_uids and _UID.fullmatch(uid) else self.digest(uid.encode())

    @property
    def tag(self) -> str:
        """Changes with the salt, of which it tells nothing, and with what becomes of UIDs."""
        return f"{'kept' if self.keep_uids else 'hashed'} {self.digest(b'tag')[:8]}"


def _make(path: Path) -> None:
    """Whole or not at all, and where another run makes it just now, that one's."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    # Several threads of one process may come here at once: from Python 3.12 on a cached_property has no lock.
    own = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(own, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with open(descriptor, "w") as file:
            file.write(secrets.token_hex(32) + "\n")
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(own, path)
        except FileExistsError:
            return
    finally:
        own.unlink()
