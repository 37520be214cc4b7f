"""One tiny model and one finished run for all tests of faults. No test."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from launched import GIVEN, autoprompt
from toy import rows, write_csv


@pytest.fixture(scope="session")
def model(tiny_checkpoint: Callable[..., Path]) -> Path:
    return tiny_checkpoint("bert")


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_csv(tmp_path_factory.mktemp("data") / "train.csv", rows(8))


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, model: Path, data: Path) -> Path:
    """A finished run; not to be written to."""
    folder = tmp_path_factory.mktemp("finished")
    said = autoprompt("search", data, "--out", "run", "--model", model, *GIVEN, cwd=folder)
    assert said.code == 0, said.err
    return folder / "run"


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    """A finished run of the test's own."""
    return Path(shutil.copytree(finished, tmp_path / "run"))
