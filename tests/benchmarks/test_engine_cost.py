"""The bounds that the project promises on its own cost, by the benchmark that measures them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]


def _measure(*arguments: object) -> dict[str, Any]:
    script = REPOSITORY / "benchmarks" / "engine_cost.py"
    finished = subprocess.run(
        [sys.executable, str(script), *(str(part) for part in arguments)],
        cwd=REPOSITORY,
        env={"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    return json.loads(finished.stdout)


@pytest.mark.slow
def test_own_cost_stays_below_twenty_milliseconds_at_500_trials() -> None:
    found = _measure("--stored", 500, "--trials", 30)
    assert found["stored_trials"] == 500
    assert 0 < found["own_cpu_ms_per_trial"] < 20


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_resident_memory_is_flat_over_100_trials(tiny_model: Path, precision: str) -> None:
    """In bf16 a batch of a new shape costs memory for good, so there must be few of them."""
    model = tiny_model if precision == "fp32" else "builtin"
    given = ("--model", model, "--precision", precision)
    found = _measure("--memory", "--trials", 100, *given)
    assert found["trials"] == 100
    assert found["growth"] < 0.02


def test_the_engine_benchmark_runs(tmp_path: Path) -> None:
    found = _measure("--stored", 12, "--trials", 4)
    assert found["own_cpu_ms_per_trial"] > 0
    assert found["optuna_cpu_ms_per_trial"] > 0
