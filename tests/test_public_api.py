"""The public face: few names, light to import."""

from __future__ import annotations

import subprocess
import sys

import autoprompt

LIGHT = {
    "import": "import autoprompt, search_spaces, storage",
    "help": "from autoprompt.cli import run; run(['--help'])",
    "search help": "from autoprompt.cli import run; run(['search', '--help'])",
    "config": "from autoprompt.cli import run; run(['config', '--schema'])",
    "queries": "import storage.queries, autoprompt.report.leaderboard, autoprompt.search.opened",
    "page": "import autoprompt.report.page, optuna",
    "models": "from autoprompt.cli import run; run(['models'])",
}


def test_public_names_resolve() -> None:
    assert len(autoprompt.__all__) <= 12
    for name in autoprompt.__all__:
        assert getattr(autoprompt, name) is not None


def test_torch_stays_out() -> None:
    for title, code in LIGHT.items():
        check = f"{code}\nimport sys\nassert 'torch' not in sys.modules, {title!r}"
        done = subprocess.run(
            [sys.executable, "-c", check], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
