"""All that a GPU must show, in eight minutes: does it work, does it agree, how fast is it, and where does time go.

    python -m benchmarks.gpu_acceptance [--checkpoint FILE] [--out FOLDER] [--minutes 8] [--cpu]

It needs the installed package, a checkpoint (the demo model by default) and no network; bundles and archives it makes
itself. Every section, of ``benchmarks/acceptance/``, runs in a process of its own, so that a crash or a hang costs that
section alone, and what it found is in ``FOLDER/acceptance.json`` at once. Correctness comes first; what takes long (the
tests that are marked ``gpu``, INT8's calibration) comes last and is left out, and told, where the time is up. ``--cpu``
runs what needs no GPU, with ONNX Runtime.

Rates are views/s, medians over interleaved repetitions with least and most beside them; scores are compared with the
reference before anything is timed.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # for it may be started as a file, too

from benchmarks.acceptance.sections import SECTIONS, run_sections
from benchmarks.acceptance.table import table
from benchmarks.acceptance.work import ROOT, Work


def main() -> None:
    """Runs the sections, or one of them for the process that runs all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, default=ROOT / "engines" / "demo" / "model.safetensors")
    parser.add_argument("--out", type=Path, default=Path(os.environ.get("OUT", "acceptance")))
    parser.add_argument("--minutes", type=float, default=8.0, help="after which nothing more is begun")
    parser.add_argument("--cpu", action="store_true", help="only what needs no GPU")
    parser.add_argument("--only", nargs="*", choices=list(SECTIONS), help="these sections, on what is there already")
    parser.add_argument("--section", choices=list(SECTIONS), help=argparse.SUPPRESS)
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    work = Work(given.out.resolve(), given.checkpoint.resolve(), given.cpu)
    if given.section:
        found = SECTIONS[given.section][0](work)
        (work.folder / f"{given.section}.json").write_text(json.dumps(found) + "\n")
        return
    result = run_sections(work, given.only or SECTIONS, given.minutes * 60)
    print(table(result))


if __name__ == "__main__":
    main()
