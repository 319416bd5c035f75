"""What runs the measurements again: each once, with its log, and a failure told."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import claims


def test_each_is_run_once_and_its_log_says_how(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made = {"good": "python -c 'print(6 * 7)' > {work}/out && cat {work}/out", "bad": "echo no >&2; exit 3"}
    monkeypatch.setattr(claims, "CLAIMS", made)
    monkeypatch.setattr("sys.argv", ["claims", str(tmp_path)])
    assert claims.main() == 1
    assert "failed: bad" in capsys.readouterr().out
    head, printed = (tmp_path / "good.log").read_text().split("\n", 1)
    assert json.loads(head)["exit"] == 0 and printed == "42\n"
    head, printed = (tmp_path / "bad.log").read_text().split("\n", 1)
    assert json.loads(head)["exit"] == 3 and printed == "no\n"
    made["bad"] = "true"
    (tmp_path / "good" / "out").unlink()
    assert claims.main() == 0
    assert not (tmp_path / "good" / "out").exists()  # what ended well is not run again


def test_a_name_that_there_is_not_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["claims", str(tmp_path), "spede"])
    with pytest.raises(SystemExit):
        claims.main()
