"""Named search spaces, one TOML file each in `presets/`. Reads files, tries nothing.

A file holds `about` (one line), optionally `include` (names of other presets, merged), and
`[space]` with one line a dimension: a value, a list, `{low, high, log}`, or `{options}`, the
tables with an optional `when = {method = [...]}`. An empty list leaves template or words open.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

from search_spaces.dimension import SpaceError, dimension, unknown
from search_spaces.space import Space

_FOLDER = Path(__file__).parent / "presets"


def names() -> tuple[str, ...]:
    """The presets shipped here, sorted."""
    return tuple(sorted(path.stem for path in _FOLDER.glob("*.toml")))


def load(name_or_path: str) -> Space:
    """The space of a shipped preset, or of a TOML file of the user's (ends in `.toml`)."""
    return _space(_path(name_or_path), ())


def about(name: str) -> str:
    """The one line that says what a preset tries."""
    return str(_read(_path(name)).get("about", ""))


def _path(name_or_path: str) -> Path:
    if name_or_path.endswith(".toml"):
        return Path(name_or_path)
    if name_or_path not in names():
        raise unknown("preset", name_or_path, names())
    return _FOLDER / f"{name_or_path}.toml"


def _read(path: Path) -> dict[str, Any]:
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        known = ", ".join(names())
        raise SpaceError(f"preset: no file {str(path)!r}; give a path or one of {known}") from None
    except OSError as error:
        raise SpaceError(f"preset: cannot read {str(path)!r}: {error.strerror}; check it") from None
    except UnicodeDecodeError as error:
        raise SpaceError(
            f"preset: {str(path)!r} is not UTF-8 at byte {error.start}; save it as UTF-8"
        ) from None
    except tomllib.TOMLDecodeError as error:
        raise SpaceError(f"preset: {str(path)!r} is not TOML: {error}; correct it") from None
    for key in content:
        if key not in ("about", "include", "space"):
            raise SpaceError(f"{path}: {unknown('key', key, ('about', 'include', 'space'))}")
    if not isinstance(about := content.get("about", ""), str):
        raise SpaceError(f"{path}: about: {about!r} is no text; give one line of text")
    return content


def _space(path: Path, seen: tuple[Path, ...]) -> Space:
    content = _read(path)
    include = content.get("include", [])
    table = content.get("space", {})
    if not isinstance(include, list) or not all(isinstance(name, str) for name in include):
        raise SpaceError(f"{path}: include: {include!r} is not a list of names; write ['hard']")
    if not isinstance(table, dict):
        raise SpaceError(f"{path}: space: {table!r} is not a table; write [space]")
    if path in seen:
        raise SpaceError(f"{path}: include: {include!r} comes round in a circle; remove one name")
    try:
        spaces = [_space(_path(name), (*seen, path)) for name in include]
        own = Space(tuple(dimension(name, spec) for name, spec in table.items()))
        if table and not own.methods:
            methods = [method for space in spaces for method in space.methods] or ["hard"]
            raise SpaceError(f"space.method: missing; add for example method = {methods[0]!r}")
        return Space.merge(*spaces, own) if table else Space.merge(*spaces)
    except SpaceError as error:
        if str(error).startswith(str(path.parent)):
            raise
        raise SpaceError(f"{path}: {error}") from None
