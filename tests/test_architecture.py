"""Who may import whom: docs/architecture.md as a test. Type-only and in-function imports count."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("autoprompt", "search_spaces", "storage")
FLOORS = {
    "search_spaces": 1,
    "storage": 1,
    "autoprompt.data": 1,
    "autoprompt.plugins": 1,
    "autoprompt.text": 2,
    "autoprompt.config": 2,
    "autoprompt.report": 2,
    "autoprompt.models": 3,
    "autoprompt.prompts": 4,
    "autoprompt.proposals": 4,
    "autoprompt.learners": 5,
    "autoprompt.search": 6,
    "autoprompt.serving": 6,
    "autoprompt.dashboard": 6,
    "autoprompt.terminal": 7,
    "autoprompt.cli": 8,
    "autoprompt.__main__": 9,
    "autoprompt": 9,
}
SIDE_PACKAGES = {"storage": {"sqlalchemy", "alembic"}, "search_spaces": set()}
# config is read on floors 6 and up; learners take `candidate` alone from search_spaces
FILES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def room(module: str) -> str:
    """The unit with a floor: a side package, or a folder or file of autoprompt."""
    parts = module.split(".")
    if parts[0] != "autoprompt":
        return parts[0]
    return ".".join(parts[:2])


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            submodules = {f"{node.module}.{alias.name}" for alias in node.names}
            known = {module_name(file) for file in FILES}
            found |= {name if name in known else str(node.module) for name in submodules}
    return found


def ours(name: str) -> bool:
    return name.split(".")[0] in PACKAGES


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_imports_go_down(path: Path) -> None:
    module = module_name(path)
    here = room(module)
    assert here in FLOORS, f"{here} has no floor in docs/architecture.md"
    if path.name == "__init__.py" and module == "autoprompt":
        return  # the public face: names resolved lazily from anywhere
    for name in filter(ours, imports(path)):
        there = room(name)
        if there == here:
            continue
        assert FLOORS[there] < FLOORS[here], f"{module} imports {name}, which is not below it"
        if here == "autoprompt.learners" and there == "search_spaces":
            assert name == "search_spaces.candidate"
        if there == "autoprompt.config":
            assert FLOORS[here] >= 6, f"{module} reads the configuration"


@pytest.mark.parametrize("package", SIDE_PACKAGES)
def test_side_packages_stand_alone(package: str) -> None:
    import sys

    for path in (ROOT / package).rglob("*.py"):
        for name in imports(path):
            top = name.split(".")[0]
            assert top == package or top in SIDE_PACKAGES[package] | sys.stdlib_module_names, (
                f"{module_name(path)} imports {name}"
            )


def test_no_circle_between_files() -> None:
    graph = {module_name(p): {n for n in imports(p) if ours(n)} for p in FILES}
    graph.pop("autoprompt")
    done: set[str] = set()

    def visit(module: str, above: tuple[str, ...]) -> None:
        assert module not in above, f"circle: {' -> '.join((*above, module))}"
        if module in done or module not in graph:
            return
        for name in sorted(graph[module]):
            visit(name, (*above, module))
        done.add(module)

    for module in sorted(graph):
        visit(module, ())


def test_no_attic() -> None:
    forbidden = {"utils.py", "helpers.py", "common.py", "types.py", "misc.py"}
    assert not [path for path in FILES if path.name in forbidden]


def test_no_unsafe_calls() -> None:
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call):
                name = ast.unparse(node.func)
                assert name not in {"eval", "exec", "torch.load", "torch.save"}, f"{path}: {name}"
                assert not any(
                    word.arg == "shell"
                    or (word.arg == "trust_remote_code" and ast.unparse(word.value) != "False")
                    for word in node.keywords
                ), f"{path}: {ast.unparse(node)}"
            if isinstance(node, ast.Import):
                assert not {a.name for a in node.names} & {"pickle", "dill", "joblib"}, str(path)
