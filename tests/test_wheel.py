"""The wheel in an environment of its own, run from another folder: nothing comes from this tree."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest
import toy

REPOSITORY = Path(__file__).resolve().parent.parent
PACKAGES = ("autoprompt", "search_spaces", "storage")
PRESETS = (
    "zero_shot",
    "soft_verbalizer",
    "hard",
    "prompt_tuning",
    "p_tuning",
    "p_tuning_v2",
    "deep_hidden",
    "dynamic",
    "prefix_tuning",
    "fine_tuning",
    "embeddings",
    "tfidf",
    "quick",
)


def _run(*command: object, cwd: Path, timeout: float = 600) -> subprocess.CompletedProcess[str]:
    """Without PYTHONPATH, so that only the environment's own packages are found."""
    hidden = {"PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV"}
    kept = {name: value for name, value in os.environ.items() if name not in hidden}
    finished = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=kept | {"OMP_NUM_THREADS": "1"},  # small work; threads would wait for each other
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    assert finished.returncode == 0, f"{command}: {finished.stdout}\n{finished.stderr}"
    return finished


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy, so that no build folder is left in the tree."""
    source = tmp_path_factory.mktemp("source")
    for name in PACKAGES:
        ignored = shutil.ignore_patterns("__pycache__", ".*")
        shutil.copytree(REPOSITORY / name, source / name, ignore=ignored)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(REPOSITORY / name, source / name)
    out = tmp_path_factory.mktemp("wheel")
    _run(sys.executable, "-m", "pip", "wheel", ".", "--no-deps", "-q", "-w", out, cwd=source)
    (built,) = out.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh environment with the wheel; its dependencies are those of the running one.

    A path in a .pth file is searched after the environment's own packages, and .pth files found
    there (an editable install of this repository) are not followed.
    """
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False, symlinks=True)
    python = folder / "bin" / "python"
    asked = "import sysconfig; print(sysconfig.get_path('purelib'))"
    site = Path(_run(python, "-c", asked, cwd=folder).stdout.strip())
    found = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    (site / "dependencies.pth").write_text("\n".join(sorted(found)) + "\n")
    install = ("install", "--no-deps", "--no-index", "--ignore-installed", "-q", wheel)
    _run(sys.executable, "-m", "pip", "--python", python, *install, cwd=folder)
    return folder


def test_everything_the_program_reads_is_in_the_wheel(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    wanted = {f"{package}/py.typed" for package in PACKAGES}
    wanted |= {f"search_spaces/presets/{name}.toml" for name in PRESETS}
    wanted |= {"storage/migrations/env.py", "storage/migrations/versions/v0001_tables.py"}
    wanted |= {"storage/migrations/versions/v0002_work.py"}
    wanted |= {"autoprompt/models/builtin_lm.safetensors", "autoprompt/report/page.html.j2"}
    assert not wanted - names
    assert any(name.endswith("/LICENSE") for name in names)
    tops = {name.split("/")[0] for name in names if ".dist-info" not in name}
    assert tops == set(PACKAGES)
    tracked = {
        str(path.relative_to(REPOSITORY))
        for package in PACKAGES
        for path in (REPOSITORY / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and not path.name.startswith(".")
    }
    assert tracked <= names  # a new data file needs its line in pyproject.toml


def test_the_installed_command_does_the_main_job(environment: Path, tmp_path: Path) -> None:
    python, command = environment / "bin" / "python", environment / "bin" / "autoprompt"
    asked = "import autoprompt, search_spaces, storage; print(autoprompt.__file__)\n"
    asked += "print(search_spaces.__file__); print(storage.__file__)"
    places = _run(python, "-c", asked, cwd=tmp_path).stdout.split()
    for place in places:
        assert Path(place).is_relative_to(environment)
    assert "builtin" in _run(command, "models", cwd=tmp_path).stdout

    toy.write_csv(tmp_path / "train.csv", toy.rows(6))
    tiny = ("--model", "builtin", "--preset", "zero_shot", "--trials", 2, *toy.TINY)
    said = _run(
        *(command, "search", "train.csv", "--out", "run", *tiny, *toy.GIVEN_POOLS, "--json"),
        cwd=tmp_path,
    )
    assert json.loads(said.stdout)["bundle"] is True
    _run(command, "report", "run", cwd=tmp_path)
    assert (tmp_path / "run" / "report.html").is_file()
    _run(command, "export", "run", "bundle", cwd=tmp_path)
    said = _run(command, "predict", "bundle", "train.csv", "--proba", cwd=tmp_path)
    answers = [json.loads(line)["label"] for line in said.stdout.splitlines()]
    assert len(answers) == 12
    assert set(answers) <= {"bad", "good"}
