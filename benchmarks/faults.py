"""Plants faults that matter, one at a time, in a copy of the checkout, and tells which test catches each.

    python -m benchmarks.faults [--only WORD] [--out FILE]

Exit code 1 where a fault goes unnoticed, or where its place in the code is not found any more. Some four minutes.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
SECONDS = 300  # for the tests of one fault
UNNOTICED = "UNNOTICED"


class Fault(NamedTuple):
    """A line that is wrong."""

    what: str
    file: str
    """Below ``mura_trt/``."""
    right: str
    """What is in the file, once at the least."""
    wrong: str
    tests: str
    """Below ``tests/``, those that should notice."""


FAULTS = [
    Fault(
        "abnormal is 0.5 and above",
        "studies.py",
        "mean[part] > threshold",
        "mean[part] >= threshold",
        "test_studies.py",
    ),
    Fault(
        "a failed view counts as 0 in its study's mean",
        "studies.py",
        "np.divide(total, scored,",
        "np.divide(total, views,",
        "test_studies.py",
    ),
    Fault("a shard's hash is not looked at", "shards.py", '!= record["sha256"]', '== ""', "test_results.py"),
    Fault(
        "a PNG chunk's checksum is not looked at",
        "screen.py",
        "if crc32(view[at + 4 : body]) != _CRC.unpack_from(data, body)[0]:",
        "if False:",
        "test_screen.py",
    ),
    Fault("no cap on dimensions", "screen.py", "if width * height > MAX_PIXELS:", "if False:", "test_screen.py"),
    Fault(
        "rows that come a second time count",
        "ledger.py",
        "            hand.overtaken.remove(task)\n            return None",
        "            hand.overtaken.remove(task)\n            return self._gather(rows)",
        "test_ledger.py",
    ),
    Fault(
        "a lost task is not taken apart",
        "ledger.py",
        "if len(lost) == 1 and lost[0].stop - lost[0].start > 1:",
        "if False:",
        "test_ledger.py",
    ),
    Fault(
        "AppleDouble files are views",
        "archives/keys.py",
        'if os.path.basename(key).startswith(b"."):',
        "if False:",
        "archives/test_folders_and_lists.py",
    ),
    Fault(
        "a bundle's files are not compared with their hashes",
        "bundle.py",
        "if problem := file_problem(folder, manifest, role):",
        "if (problem := file_problem(folder, manifest, role)) and False:",
        "test_bundle.py",
    ),
    Fault(
        "a bundle that failed its check is scored with",
        "bundle.py",
        'if found and found["kept"]:',
        "if found:",
        "parity/test_compare.py",
    ),
    Fault(
        "a variance for a standard error",
        "metrics.py",
        "return float(np.sqrt(max(variance, 0)))",
        "return float(max(variance, 0))",
        "test_metrics.py",
    ),
    Fault(
        "agreement for kappa",
        "metrics.py",
        "(np.trace(share) - expected) / (1 - expected)",
        "np.trace(share)",
        "test_metrics.py",
    ),
    Fault("no antialiasing", "decode.py", "antialias=True", "antialias=False", "test_decode.py"),
    Fault(
        "the mean of other units",
        "model.py",
        "permute(0, 3, 1, 2) - self.mean)",
        "permute(0, 3, 1, 2) - self.mean / 255)",
        "test_model.py",
    ),
    Fault(
        "a score may be no number",
        "worker.py",
        'np.isfinite(scores["logit"]) & np.isfinite(scores["probability"])',
        "np.ones(len(scores), bool)",
        "test_worker.py",
    ),
    Fault(
        "MONOCHROME1 is not inverted",
        "dicom.py",
        'dataset.PhotometricInterpretation == "MONOCHROME1" or',
        "False or",
        "test_dicom.py",
    ),
    Fault(
        "scores are copied before they are computed",
        "runtimes/device.py",
        "        self._copy_back.wait_for_event(slot.computed)\n",
        "",
        "flight/test_flight.py",
    ),
    Fault(
        "a plan of TensorRT-RTX is tried on SM90",
        "plan.py",
        "if problem := unsupported(name, gpu):",
        "if problem := None:",
        "test_plan.py",
    ),
    Fault(
        "writes are not synced",
        "files.py",
        "            os.fsync(file.fileno())\n",
        "            pass\n",
        "test_files.py",
    ),
    Fault(
        "workers share cores",
        "places.py",
        "worker * len(cores) // workers for worker",
        "0 if worker < workers else len(cores) for worker",
        "test_places.py",
    ),
    Fault(
        "what DALI decodes changes places with what C does",
        "host_decode.py",
        "joined, kept = joined[order], sorted(kept)",
        "kept = sorted(kept)",
        "test_decode.py",
    ),
    Fault(
        "a short batch at the end never goes",
        "readahead.py",
        "if not full and not (self._ready.views and self._flush):",
        "if not full:",
        "test_readahead.py",
    ),
    Fault(
        "all threads read where one would do",
        "readahead.py",
        "return 1 if 2 * there >= self._depth else self._most",
        "return self._most",
        "test_readahead.py",
    ),
    Fault(
        "a fused ReLU takes a NaN for 0",
        "fused_kernels.py",
        "x, 0.0, propagate_nan=tl.PropagateNan.ALL",
        "x, 0.0",
        "test_fused.py",
    ),
    Fault(
        "an archive that is away is not waited for",
        "archives/awaited.py",
        "problem = self._source.absence()",
        'problem = ""',
        "archives/test_awaited.py",
    ),
]


def noticed(fault: Fault, copy: Path) -> str:
    """The first test that fails with the fault in the copy; or ``UNNOTICED``, or why it could not be planted."""
    file = copy / "mura_trt" / fault.file
    right = file.read_text()
    if fault.right not in right:
        return f"{UNNOTICED}: its place is not found"
    file.write_text(right.replace(fault.right, fault.wrong, 1))
    tests = [str(copy / "tests" / one) for one in fault.tests.split()]
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-m", "not slow", "-p", "no:cacheprovider", *tests]
    try:
        done = subprocess.run(command, cwd=copy, capture_output=True, text=True, check=False, timeout=SECONDS)
    except subprocess.TimeoutExpired:
        return f"{UNNOTICED}: none ended within {SECONDS} s"
    finally:
        file.write_text(right)
    failed = [line for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
    if done.returncode != 1 or not failed:  # 1: tests failed; else they passed, or there are none that can run
        return f"{UNNOTICED}: exit code {done.returncode}"
    return failed[0].split(" - ")[0].split("[")[0].partition(" ")[2].removeprefix("tests/")


def main() -> None:
    """Plants, tells and writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="faults with this in what they are")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    given = parser.parse_args()
    found: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "checkout"
        leave = shutil.ignore_patterns(
            ".git", ".venv*", ".coverage*", "acceptance", "demo", "soak", "__pycache__", ".*_cache"
        )
        shutil.copytree(ROOT, copy, ignore=lambda at, names: leave(at, names) if Path(at) == ROOT else set())
        for fault in FAULTS:
            if given.only in fault.what:
                found[fault.what] = noticed(fault, copy)
                print(f"| {fault.what} | `{fault.file}` | `{found[fault.what]}` |", flush=True)
    if given.out:
        given.out.write_text(json.dumps(found, indent=1) + "\n")
    sys.exit(any(how.startswith(UNNOTICED) for how in found.values()))


if __name__ == "__main__":
    main()
