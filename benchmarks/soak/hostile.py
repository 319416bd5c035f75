"""Archives made to do harm: bombs, lies, names that lead out, links, devices, damage; good members among them."""

from __future__ import annotations

import io
import os
import random
import shutil
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.soak import runs
from benchmarks.soak.files import png

GOOD = 12  # members, before, between and behind the others
MAX_MEMORY = 2048  # MiB of a run's processes
MAX_SECONDS = 120.0
BOMB_BYTES = 1 << 31  # unpacked

Zipped = Callable[[zipfile.ZipFile, random.Random], None]
Tarred = Callable[[tarfile.TarFile, random.Random], None]


class _Zeros(io.RawIOBase):
    """As many zero bytes as one likes."""

    def __init__(self, count: int) -> None:
        self._left = count

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        count = self._left if size < 0 else min(size, self._left)
        self._left -= count
        return bytes(count)


def _zip_bomb(archive: zipfile.ZipFile, rng: random.Random) -> None:
    with archive.open(f"bomb/{rng.random()}.png", "w") as member:
        for _ in range((1 << 28) // (1 << 20)):
            member.write(bytes(1 << 20))


def _zip_name(name: str) -> Zipped:
    def add(archive: zipfile.ZipFile, rng: random.Random) -> None:
        member = zipfile.ZipInfo("x")
        member.filename = name.format(rng.random())  # not through the constructor, which ends a name at a NUL
        archive.writestr(member, png(np.random.default_rng(rng.randrange(1 << 30))))

    return add


def _zip_mode(mode: int, target: str) -> Zipped:
    def add(archive: zipfile.ZipFile, rng: random.Random) -> None:
        member = zipfile.ZipInfo(f"mode/{rng.random()}.png")
        member.create_system, member.external_attr = 3, mode << 16
        archive.writestr(member, target)

    return add


def _zip_again(archive: zipfile.ZipFile, rng: random.Random) -> None:
    data = png(np.random.default_rng(0))
    name = f"twice/{rng.random()}.png"
    archive.writestr(zipfile.ZipInfo(name), data)
    archive.NameToInfo.pop(name)  # or it would warn
    archive.writestr(zipfile.ZipInfo(name), data)


def _zip_lie(field: str, value: int) -> Zipped:
    def add(archive: zipfile.ZipFile, rng: random.Random) -> None:
        name = f"lie/{rng.random()}.png"
        archive.writestr(zipfile.ZipInfo(name), png(np.random.default_rng(rng.randrange(1 << 30))))
        setattr(archive.getinfo(name), field, value)  # the directory, which is written last, has the lie

    return add


def _tar_member(kind: bytes, **fields: Any) -> Tarred:
    def add(archive: tarfile.TarFile, rng: random.Random) -> None:
        member = tarfile.TarInfo(f"kind/{rng.random()}.png")
        member.type = kind
        for field, value in fields.items():
            setattr(member, field, value.format(rng.random()) if isinstance(value, str) else value)
        archive.addfile(member)

    return add


def _tar_name(name: str) -> Tarred:
    def add(archive: tarfile.TarFile, rng: random.Random) -> None:
        _tar(archive, name.format(rng.random()), png(np.random.default_rng(rng.randrange(1 << 30))))

    return add


def _tar_again(archive: tarfile.TarFile, rng: random.Random) -> None:
    name = f"twice/{rng.random()}.png"
    for number in range(2):
        _tar(archive, name, png(np.random.default_rng(number)))


def _tar_bomb(archive: tarfile.TarFile, rng: random.Random) -> None:
    member = tarfile.TarInfo(f"bomb/{rng.random()}.png")
    member.size = BOMB_BYTES
    archive.addfile(member, _Zeros(BOMB_BYTES))


def _tar(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    archive.addfile(member, io.BytesIO(data))


IN_ZIPS: dict[str, Zipped] = {
    "bomb": _zip_bomb,
    "name that leads out": _zip_name("../../{}.png"),
    "absolute name": _zip_name("/tmp/{}.png"),
    "name with a drive": _zip_name("C:\\{}.png"),
    "name with NUL": _zip_name("nul\0/{}.png"),
    "name of 60,000 letters": _zip_name("x" * 60_000 + "{}.png"),
    "symbolic link": _zip_mode(stat.S_IFLNK | 0o777, "/etc/passwd"),
    "device": _zip_mode(stat.S_IFCHR | 0o666, ""),
    "FIFO": _zip_mode(stat.S_IFIFO | 0o666, ""),
    "same name twice": _zip_again,
    "size too large": _zip_lie("file_size", 1 << 27),
    "size too small": _zip_lie("file_size", 10),
    "packed size too large": _zip_lie("compress_size", 1 << 20),
    "begins in another member": _zip_lie("header_offset", 3),
    "begins behind the end": _zip_lie("header_offset", 1 << 31),
    "wrong CRC": _zip_lie("CRC", 1),
    "encrypted": _zip_lie("flag_bits", 1),
    "unknown compression": _zip_lie("compress_type", 14),
}
IN_TARS: dict[str, Tarred] = {
    "name that leads out": _tar_name("../../{}.png"),
    "absolute name": _tar_name("/tmp/{}.png"),
    "name of 60,000 letters": _tar_name("x" * 60_000 + "{}.png"),
    "same name twice": _tar_again,
    "symbolic link": _tar_member(tarfile.SYMTYPE, linkname="/etc/passwd"),
    "link in a circle": _tar_member(tarfile.SYMTYPE, linkname="kind"),
    "hard link": _tar_member(tarfile.LNKTYPE, linkname="/etc/passwd"),
    "device": _tar_member(tarfile.CHRTYPE, devmajor=1, devminor=5),
    "FIFO": _tar_member(tarfile.FIFOTYPE),
    "unknown kind": _tar_member(b"Z"),
    "bomb": _tar_bomb,
}


def make(path: Path, rng: random.Random, pool: list[bytes]) -> tuple[list[str], str]:
    """Makes an archive; returns the keys of its good members, and what else is in it."""
    packed_tar = rng.choice(("", ":gz", ":xz")) if path.suffix == ".tar" else ""
    choice: dict[str, Any] = dict(IN_ZIPS if path.suffix == ".zip" else IN_TARS)
    if path.suffix == ".tar" and not packed_tar:
        del choice["bomb"]  # which would be as large on the disk
    names = rng.sample(sorted(choice), rng.randint(1, 6))
    good = [f"good/study{number}/image.png" for number in range(GOOD)]
    queue: list[Any] = [*good, *names]
    rng.shuffle(queue)
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name in queue:
                if name in choice:
                    choice[name](archive, rng)
                else:
                    archive.writestr(name, pool[good.index(name)])
    else:
        mode: Any = f"w{packed_tar}"
        with tarfile.open(path, mode, format=tarfile.PAX_FORMAT) as tar:
            for name in queue:
                if name in choice:
                    choice[name](tar, rng)
                else:
                    _tar(tar, name, pool[good.index(name)])
    return good, f"{path.suffix}{packed_tar}: {', '.join(names)}"


def damage(path: Path, rng: random.Random) -> None:
    """Changes bytes where archives keep what they say of themselves, or cuts the end off."""
    data = bytearray(path.read_bytes())
    if rng.random() < 0.3:
        del data[rng.randrange(len(data) // 2, len(data)) :]
    for _ in range(rng.choice((1, 4, 16))):
        at = rng.randrange(max(0, len(data) - 2000), len(data)) if path.suffix == ".zip" else rng.randrange(len(data))
        data[at] = rng.randrange(256)
    path.write_bytes(data)


def overlapping(path: Path) -> None:
    """A zip file of which a hundred members share the bytes of one that unpacks to a lot."""
    packed = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    body = b"".join(packed.compress(bytes(1 << 20)) for _ in range(255)) + packed.flush()
    size, crc = 255 << 20, zlib.crc32(bytes(255 << 20))
    local = struct.pack("<4s5H3I2H", b"PK\3\4", 20, 0, 8, 0, 0, crc, len(body), size, 5, 0) + b"a.png"
    central = b""
    for number in range(100):
        name = b"%05d.png" % number
        fields = (20, 20, 0, 8, 0, 0, crc, len(body), size, len(name), 0, 0, 0, 0, 0, 0)
        central += struct.pack("<4s6H3I5H2I", b"PK\1\2", *fields) + name
    end = struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, 100, 100, len(central), len(local) + len(body), 0)
    path.write_bytes(local + body + central + end)


def archives(work: Path, engine: Path, count: int, seed: int = 0) -> dict[str, Any]:
    """Scores so many hostile archives, a third of them damaged, too.

    Raises
    ------
    AssertionError
        A good view of an archive that is not damaged has no score or another one, a run did not end as it should, took
        too long or too much memory, or something lies outside the output folder.
    subprocess.TimeoutExpired
        A run hangs.
    """
    shutil.rmtree(work / "hostile", ignore_errors=True)
    folder = work / "hostile"
    folder.mkdir()
    pool = [png(np.random.default_rng(number)) for number in range(GOOD)]
    alone = work / "good"
    shutil.rmtree(alone, ignore_errors=True)
    for number, data in enumerate(pool):
        (alone / f"good/study{number}").mkdir(parents=True)
        (alone / f"good/study{number}/image.png").write_bytes(data)
    expected = runs.score(alone, engine, work / "out-good").scores().to_dict()
    good: list[str] = []
    result: dict[str, Any] = {
        "archives": count,
        "damaged": 0,
        "good_views": 0,
        "named": 0,
        "refused": 0,
        "slowest_s": 0.0,
        "peak_memory_mib": 0,
    }
    for number in range(count):
        rng = random.Random(seed * 10_000 + number)
        damaged = number % 3 == 2
        path = folder / f"{number}{'.zip' if number % 2 else '.tar'}"
        if number == 1:
            overlapping(path)
            good, what = [], "members that overlap"
        else:
            good, what = make(path, rng, pool)
        if damaged:
            damage(path, rng)
        before = _outside(folder)
        run = runs.score(path, engine, folder / "out", limit=MAX_SECONDS)
        assert _outside(folder) == before, f"{what}: something was written outside"
        refused = run.exit_code == 2
        assert run.exit_code in ((runs.OK, runs.FAILURES, 2) if damaged else (runs.FAILURES,)), f"{what}: {run.said}"
        assert run.peak_bytes >> 20 < MAX_MEMORY, f"{what}: {run.peak_bytes:,} bytes in memory"
        assert "Traceback" not in run.said, f"{what}: {run.said}"
        if not refused:
            found = run.scores().to_dict()
            wrong = [key for key in good if found.get(key) != expected[key]]
            assert damaged or not wrong, f"{what}: {wrong} are lost or scored otherwise"
            named = len(run.failures())
            assert len(found) + named == run.summary["listed"], what
            assert run.summary["workers_lost"] == 0, what
            result["named"] += named
            result["good_views"] += len(good) - len(wrong)
        result["damaged"] += damaged
        result["refused"] += refused
        result["slowest_s"] = max(result["slowest_s"], round(run.seconds, 1))
        result["peak_memory_mib"] = max(result["peak_memory_mib"], run.peak_bytes >> 20)
        path.unlink()
    return result


def _outside(folder: Path) -> set[str]:
    """What lies about, but for the output folder; where others write, too, with a name as the hostile ones have it."""
    found = [path for place in (folder, folder.parent) for path in place.glob("*.png")]
    return {os.fspath(path) for path in (*found, *Path("/tmp").glob("[0-9].[0-9]*.png"))}
