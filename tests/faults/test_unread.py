"""Nobody reads what the command says any more: the work goes on."""

from __future__ import annotations

from pathlib import Path

from launched import GIVEN, PATIENCE, ask, start


def test_progress_that_nobody_reads_does_not_end_the_search(
    data: Path, model: Path, tmp_path: Path
) -> None:
    """As `search ... 2>&1 | head -1`."""
    process = start("search", data, "--out", "run", "--model", model, *GIVEN, cwd=tmp_path)
    assert process.stdout is not None
    assert process.stderr is not None
    assert "starting" in process.stderr.readline()
    process.stderr.close()
    process.stdout.close()
    assert process.wait(PATIENCE) == 0
    stages = ask(tmp_path / "run" / "study.db", "SELECT stage FROM autoprompt_study")
    assert stages == [("done",)]
