"""Archives behind URLs: a real S3 server and a real web server, on this machine."""

from __future__ import annotations

import functools
import http.server
import socket
import sys
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from mura_trt.archives import list_archive, remote
from mura_trt.archives.disclosure import Disclosure
from mura_trt.archives.remote import url_absence
from mura_trt.bundle import Bundle
from mura_trt.earlier import hashes_of
from mura_trt.errors import EnvironmentProblem, UsageError
from mura_trt.score import score
from mura_trt.score_options import ScoreOptions
from tests.test_dicom import real


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """A bucket with an archive as objects, as a zip and as tar files; and the archive as a folder."""
    import s3fs
    from moto.server import ThreadedMotoServer

    root = tmp_path_factory.mktemp("store") / "archive"
    rng = np.random.default_rng(0)
    for number in range(12):
        path = root / f"XR_HAND/patient{number // 3}/study1_positive/image{number % 3}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (30, 30), np.uint8)).save(path)
    (root / "XR_HAND/patient0/study1_positive/empty.png").touch()
    (root / "XR_HAND/patient0/.hidden.png").touch()
    (root / "scan.dcm").write_bytes(real("MR_small_RLE.dcm"))
    (root / "README").touch()
    names = sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())
    with zipfile.ZipFile(root.parent / "archive.zip", "w", zipfile.ZIP_DEFLATED) as packed:
        for name in names:
            packed.write(root / name, name)
    for shard in range(2):
        for suffix in ("tar", "tar.gz"):
            path = root.parent / f"shard-{shard}.{suffix}"
            with tarfile.open(path, "w:gz") if suffix == "tar.gz" else tarfile.open(path, "w") as tar:
                for name in names[shard::2]:
                    tar.add(root / name, name)
    server = ThreadedMotoServer(port=0)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        patch.setenv("AWS_ACCESS_KEY_ID", "testing")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        client = s3fs.S3FileSystem()
        client.mkdir("bucket")
        for name in names:
            client.pipe_file(f"bucket/xrays/{name}", (root / name).read_bytes())
        for file in root.parent.glob("*.*"):
            client.pipe_file(f"bucket/{file.name}", file.read_bytes())
        yield "s3://bucket", root
    server.stop()


def run(archive: Path | str, bundle: Bundle, out: Path) -> pd.DataFrame:
    salt = out.parent / "salt"
    score(
        ScoreOptions(archive, bundle.folder, out, runtime="null", uid_salt_file=salt, keep_paths=True, keep_uids=True)
    )
    views, failures = (pd.read_csv(out / f"{name}.csv") for name in ("views", "failures"))
    assert failures[["view", "code"]].to_numpy().tolist() == [["XR_HAND/patient0/study1_positive/empty.png", "EMPTY"]]
    return views.sort_values("view", ignore_index=True)


@pytest.fixture(scope="module")
def expected(store: tuple[str, Path], bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    return run(store[1], bundle, tmp_path_factory.mktemp("expected") / "out")


@pytest.mark.parametrize("name", ["xrays", "xrays/", "archive.zip", "shard-{0..1}.tar", "shard-{0..1}.tar.gz"])
def test_a_bucket_gives_what_the_folder_gives(
    store: tuple[str, Path], expected: pd.DataFrame, bundle: Bundle, tmp_path: Path, name: str
) -> None:
    pd.testing.assert_frame_equal(run(f"{store[0]}/{name}", bundle, tmp_path / "out"), expected)


def test_objects_are_known_again(store: tuple[str, Path], tmp_path: Path) -> None:
    import s3fs

    listing = list_archive(f"{store[0]}/xrays", disclosure=Disclosure(tmp_path / "salt"))
    before = hashes_of(listing)
    assert before.any(axis=1).all()
    np.testing.assert_array_equal(hashes_of(listing), before)
    client = s3fs.S3FileSystem()
    key = listing.keys(3, 4)[0].decode()
    old = client.cat_file(f"bucket/xrays/{key}")
    client.pipe_file(f"bucket/xrays/{key}", b"changed")
    listing = list_archive(f"{store[0]}/xrays", disclosure=Disclosure(tmp_path / "salt"))
    assert (hashes_of(listing) != before).any(axis=1).nonzero()[0].tolist() == [3]
    client.pipe_file(f"bucket/xrays/{key}", old)


def test_what_is_gone_or_not_there_is_told(store: tuple[str, Path]) -> None:
    url, _ = store
    reader = list_archive(f"{url}/xrays").source.open()
    with pytest.raises(FileNotFoundError) as gone:
        reader.read(b"XR_HAND/nobody.png")
    assert "nobody" not in str(gone.value)
    for name, told in (
        ("no-such-prefix", "no view found"),
        ("none.zip", "cannot be read .No such file or directory"),
        ("none.tar", r"no view found.*could not be opened: none\.tar \(No such file"),
    ):
        with pytest.raises(UsageError, match=f"{url}/{name}: {told}"):
            list_archive(f"{url}/{name}")
    for name in ("", "/xrays", "/archive.zip"):
        assert not url_absence(url + name)
    for name in ("/none", "/none.zip"):
        assert url_absence(url + name) == "No such file or directory"
    assert not list_archive(f"{url}/xrays").source.absence()
    assert not list_archive(f"{url}/archive.zip").source.absence()
    assert not list_archive(f"{url}/shard-{{0..1}}.tar").source.absence()
    with pytest.raises(UsageError, match="--root"):
        list_archive(f"{url}/xrays", root=Path("/"))
    with pytest.raises(UsageError, match=r"of web servers, \.zip and \.tar files"):
        list_archive("http://127.0.0.1/folder")


def test_keys_are_what_the_store_says_and_large_objects_come_in_parts(
    store: tuple[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    import s3fs

    client = s3fs.S3FileSystem()
    objects = {
        "s//a.png": b"twice",
        "s/a.png": b"once",
        "s/empty.png": b"",
        "s/8.png": b"12345678",
        "s/9.png": b"123456789",
    }
    for key, data in objects.items():
        client.pipe_file(f"bucket/odd/{key}", data)
    monkeypatch.setattr(remote, "_AT_ONCE", 4)
    listing = list_archive(f"{store[0]}/odd")
    reader = listing.source.open()
    keys = listing.keys(0, len(listing))
    assert {key.decode(): reader.read(key) for key in keys} == objects
    assert reader.head(b"s/9.png", 5) == b"12345"
    assert listing.stamps is not None and len(np.unique(listing.stamps, axis=0)) == 5


def test_a_server_that_tells_nothing_but_a_size_has_no_stamps() -> None:
    assert remote._stamp({"size": 5}) == bytes(16)
    assert remote._stamp({"size": 5, "Last-Modified": "today"}) != remote._stamp({"size": 5, "Last-Modified": "now"})


class _Ranges(http.server.SimpleHTTPRequestHandler):
    """A web server that gives parts of files."""

    def do_GET(self) -> None:
        asked = self.headers.get("Range")
        if not asked:
            super().do_GET()
            return
        data = Path(self.translate_path(self.path)).read_bytes()
        first, last = asked.removeprefix("bytes=").split("-")
        part = data[int(first) : int(last) + 1 if last else None]
        self.send_response(206)
        self.send_header("Content-Range", f"bytes {first}-{int(first) + len(part) - 1}/{len(data)}")
        self.send_header("Content-Length", str(len(part)))
        self.end_headers()
        self.wfile.write(part)

    def log_message(self, format: str, *args: object) -> None:
        pass


def test_a_zip_on_a_web_server_gives_what_the_folder_gives(
    store: tuple[str, Path], expected: pd.DataFrame, bundle: Bundle, tmp_path: Path
) -> None:
    handler = functools.partial(_Ranges, directory=str(store[1].parent))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/archive.zip"
        pd.testing.assert_frame_equal(run(url, bundle, tmp_path / "out"), expected)
        server.shutdown()


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("ftp://host/a.zip", "begin with s3://"),
        ("http://me:secret@host/a.zip", "no user, password or signature"),
        ("https://host/a.zip?signature=1", "no user, password or signature"),
        ("https://[host/a.zip", "no URL"),
    ],
)
def test_urls_that_are_not_read_are_refused(url: str, reason: str) -> None:
    with pytest.raises(UsageError, match=reason) as refused:
        list_archive(url)
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize("name", ["a.zip", "a.tar"])
def test_a_server_that_is_away_is_no_broken_file(name: str) -> None:
    pytest.importorskip("aiohttp")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(UsageError, match=r"the server gives an error \(ClientConnector") as refused:
        list_archive(f"http://127.0.0.1:{port}/{name}")
    assert "unzip" not in str(refused.value)
    assert url_absence(f"http://127.0.0.1:{port}/{name}").startswith("the server gives an error (ClientConnector")


@pytest.mark.parametrize("name", ["x", "x.zip", "x.tar"])
def test_a_store_whose_client_is_missing_names_the_extra(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    with pytest.raises(EnvironmentProblem, match=r"extra `gs`.*mura-trt\[gs\]"):
        list_archive(f"gs://bucket/{name}")
