"""What measurements are made with: samples of archives, fresh processes, memory, the machine and its reference."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import psutil
import pytest
import torch
from PIL import Image

from mura_trt.archives import NamedArchive
from mura_trt.bench import alone, reference
from mura_trt.bench.alone import cycled, decode_alone, in_batches
from mura_trt.bench.machine import Moment, commit, disturbance, machine, moment
from mura_trt.bench.processes import in_fresh_process, resident
from mura_trt.bench.reference import GFLOP_PER_VIEW, sgemm_rate
from mura_trt.bench.sample import link_views, repeated, take_sample, view_files
from mura_trt.cores import usable_cores
from mura_trt.errors import EnvironmentProblem, UsageError
from mura_trt.model import MuraNet
from tests.test_dicom import real

SIZE = (320, 320)


def taken(archive: Path, folder: Path) -> tuple[dict[str, object], list[Path], bool]:
    sample = take_sample(NamedArchive(archive, uid_salt_file=folder.parent / "salt"), folder, SIZE, 1)
    return sample.told(), sample.paths(), sample.converted


def test_a_folder_is_linked_to_and_what_cannot_be_scored_stays_out(few_views: Path, tmp_path: Path) -> None:
    told, paths, converted = taken(few_views, tmp_path / "sample")
    assert (told["listed"], told["sampled"], told["unpacked"], converted) == (6, 5, False, False)
    assert sum(told["left_out"].values()) == 1  # type: ignore[attr-defined]
    assert len(paths) == 5 and all(path.is_symlink() for path in paths)
    assert [path.parent.name for path in paths] == ["study000000"] * 3 + ["study000001"] * 2
    assert [path.read_bytes() for path in paths] == [path.read_bytes() for path in sorted(few_views.rglob("*.png"))[:5]]


@pytest.mark.parametrize("name", ["archive.zip", "archive.tar", "archive.tar.gz", "list.csv"])
def test_other_archives_are_taken_views_of(few_views: Path, tmp_path: Path, name: str) -> None:
    path, good = tmp_path / name, sorted(few_views.rglob("*.png"))[:5]
    if name.endswith(".csv"):
        path.write_text("".join(f"{view}\n" for view in good))
    elif name.endswith(".zip"):
        with zipfile.ZipFile(path, "w") as zipped:
            for view in good:
                zipped.write(view, view.relative_to(few_views))
    else:
        with tarfile.open(path, "w:gz" if name.endswith("gz") else "w") as tarred:
            for view in good:
                tarred.add(view, view.relative_to(few_views))
    told, paths, _ = taken(path, tmp_path / "sample")
    assert (told["listed"], told["sampled"], told["unpacked"]) == (5, 5, not name.endswith(".csv"))
    assert [found.read_bytes() for found in paths] == [view.read_bytes() for view in good]


def test_views_that_are_converted_first_are_decoded_with_that(tmp_path: Path) -> None:
    archive = tmp_path / "archive"
    archive.mkdir()
    Image.fromarray(np.full((40, 30), 3000, np.uint16)).save(archive / "deep.png")
    (archive / "1.2.3").write_bytes(real("MR_small_RLE.dcm"))
    told, paths, converted = taken(archive, tmp_path / "sample")
    assert told["sampled"] == 2 and converted
    assert {path.suffix for path in paths} == {".png", ".dcm"}
    assert decode_alone(paths, SIZE, 1, 2, 0.05, converted) > 0


def test_an_archive_without_a_view_that_can_be_scored_is_refused(tmp_path: Path) -> None:
    archive = tmp_path / "archive"
    archive.mkdir()
    (archive / "image.png").write_bytes(b"no image")
    with pytest.raises(UsageError, match="none of 1 views can be scored"):
        taken(archive, tmp_path / "sample")
    with pytest.raises(UsageError, match="no such folder"):
        taken(tmp_path / "nowhere", tmp_path / "sample")


def test_views_are_linked_again_and_again(few_views: Path, tmp_path: Path) -> None:
    with repeated(few_views, 14) as folder:
        found = view_files(folder)
        assert len(found) == 14 and len({path.resolve() for path in found}) == 6
    assert not folder.exists()
    link_views(few_views, tmp_path / "few", 2)
    assert len(view_files(tmp_path / "few")) == 2


def test_batches_are_full_and_begin_with_one_that_is_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [Path(str(number)) for number in range(5)]
    assert [len(batch) for batch in in_batches(paths, 2)] == [2, 2, 2, 1]
    clock = iter([7.0, 7.0, 7.25, 7.5, 8.0])
    monkeypatch.setattr(alone, "time", SimpleNamespace(perf_counter=clock.__next__))
    batches = list(cycled(paths, 3, 1.0))
    assert batches[:2] == [paths[:3], [*paths[3:], paths[0]]] and [len(batch) for batch in batches] == [3] * 5


def test_a_fresh_process_computes_raises_and_may_die() -> None:
    assert in_fresh_process(os.getpid) != os.getpid()
    with pytest.raises(ZeroDivisionError):
        in_fresh_process(divmod, 1, 0)
    with pytest.raises(EnvironmentProblem, match="the process of _exit died"):
        in_fresh_process(os._exit, 3)


def test_memory_is_of_a_process_and_all_below_it() -> None:
    """A process whose child holds 60 MB."""
    grandchild = "held = bytearray(60_000_000); print('held', flush=True); input()"
    child = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {grandchild!r}])"
    command = [sys.executable, "-c", child]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "held\n"
        ours, all_of_it = resident(process.pid), psutil.Process(process.pid)
        theirs = sum(one.memory_info().rss for one in (all_of_it, *all_of_it.children(recursive=True)))
        process.communicate("\n")
    assert ours == pytest.approx(theirs, rel=0.02) and ours > 60e6
    assert resident(process.pid) == 0  # it has ended


def test_gflop_of_a_view_are_those_of_the_network() -> None:
    done = 0

    def count(module: torch.nn.Module, _: object, output: torch.Tensor) -> None:
        nonlocal done
        assert isinstance(module, torch.nn.Conv2d)
        done += output.numel() * module.weight[0].numel()

    with torch.device("meta"):  # shapes alone
        network = MuraNet().eval()
        for name, convolution in network.convolutions():
            # The paper's transitions convolve before they pool: four times the positions.
            for _ in range(4 if "transition" in name else 1):
                convolution.register_forward_hook(count)
        network(torch.zeros((1, 320, 320, 1), dtype=torch.uint8))
    done += 10 * 10 * network.classifier.in_features  # the class activation map
    assert pytest.approx(2 * done / 1e9, abs=1e-4) == GFLOP_PER_VIEW


def test_matrices_have_the_rate_of_the_library_that_is_fastest_at_them(monkeypatch: pytest.MonkeyPatch) -> None:
    assert 0.5 < in_fresh_process(sgemm_rate, 1, 0.1) < 1000
    for name in ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS"):
        monkeypatch.setenv(name, "1")  # put back in the end
    ran: list[str] = []

    def library(name: str, seconds: float) -> Callable[[int], Callable[[], float]]:
        def work() -> float:
            ran.append(name)
            return seconds

        return lambda side: work

    monkeypatch.setattr(reference, "_seconds", lambda work: work())
    monkeypatch.setattr(reference, "_numpy", library("numpy", 0.4))
    monkeypatch.setattr(reference, "_onnxruntime", lambda threads: library("onnxruntime", 0.2))
    assert sgemm_rate(1, 0.0) == pytest.approx(2 * 1024**3 / 0.2 / 1e9)
    assert set(ran) == {"numpy", "onnxruntime"}
    monkeypatch.setattr(reference, "_onnxruntime", lambda threads: None)
    assert sgemm_rate(1, 0.0) == pytest.approx(2 * 1024**3 / 0.4 / 1e9)


def system(root: Path, busy: int, mhz: float | None = None, khz: int | None = None) -> Path:
    """``proc`` and ``sys`` of a machine whose cores were busy for so many ticks each."""
    cores = sorted(os.sched_getaffinity(0))
    (root / "proc").mkdir(parents=True)
    rows = [f"cpu{core} {busy} 0 0 900 50 0 0 0 {busy} 0" for core in [*cores, 9999]]
    (root / "proc/stat").write_text("\n".join(["cpu  1 1 1 1 1 1 1 1 0 0", *rows, "intr 5"]))
    if mhz is not None:
        told = [f"processor\t: {core}\nmodel name\t: x\ncpu MHz\t\t: {mhz}\n" for core in cores]
        (root / "proc/cpuinfo").write_text("\n".join(told))
    if khz is not None:
        for core in cores:
            folder = root / f"sys/devices/system/cpu/cpu{core}/cpufreq"
            folder.mkdir(parents=True)
            (folder / "scaling_cur_freq").write_text(f"{khz}\n")
    return root


def test_the_machine_is_looked_at_through_proc_and_sys(tmp_path: Path) -> None:
    cores = len(os.sched_getaffinity(0))
    first = moment(system(tmp_path / "first", 700, mhz=2596.122))
    assert first.busy == pytest.approx(7 * cores * 100 / os.sysconf("SC_CLK_TCK"))
    assert first.clocks == [2596] * cores
    assert moment(system(tmp_path / "second", 1, mhz=1.0, khz=3_100_500)).clocks == [3100] * cores
    nothing = moment(tmp_path / "nowhere")
    assert nothing.busy is None and nothing.clocks == []


def test_other_work_is_warned_of() -> None:
    cores = usable_cores()
    before = Moment(at=100.0, busy=50.0, own=1.0, load=0.1, clocks=[2000])
    quiet = disturbance(before, Moment(at=200.0, busy=150.0, own=100.0, load=cores + 2.0, clocks=[2500]))
    assert quiet["warnings"] == [] and quiet["others_share"] == round(0.01 / cores, 3)
    assert quiet["clock_mhz"] == {"start": [2000], "end": [2500]}
    busy = disturbance(before, Moment(at=200.0, busy=50 + 100.0 * cores, own=1 + 80.0 * cores, load=1.0, clocks=[]))
    assert busy["others_share"] == 0.2 and "20% of the cores' time" in busy["warnings"][0]
    begun = disturbance(before._replace(load=cores + 1.0), before._replace(at=101.0))
    assert len(begun["warnings"]) == 1 and "before it began" in begun["warnings"][0]
    unknown = disturbance(before._replace(busy=None), before._replace(at=101.0))
    assert unknown["others_share"] is None and unknown["warnings"] == []


def test_figures_are_kept_with_the_machine() -> None:
    told = machine()
    assert (
        told["cores"] == usable_cores() and told["memory_bytes"] > 1e8 and told["versions"]["numpy"] == np.__version__
    )
    head = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=Path(__file__).parent, capture_output=True, text=True, check=False
    )
    assert commit() == head.stdout.strip() and told["commit"] == commit()[:10]
