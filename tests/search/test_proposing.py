"""`proposals.generator`: who writes the templates, what is said, what is refused."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import toy

from autoprompt.data.task import Example, make_task
from autoprompt.learners.workshop import Workshop
from autoprompt.models import load
from autoprompt.proposals import generation
from autoprompt.search.proposing import propose
from autoprompt.text.template import check_template, ends_with_mask, parse
from autoprompt.text.verbalizer import Verbalizer
from storage import queries
from storage.store import Store

WORDS = 'space.words=["bad=bad; good=good"]'
GUIDE = Verbalizer((("bad", ("bad",)), ("good", ("good",))))
SHORT = ("--trials", 1, "--preset", "zero_shot", "confirm.blocks=0", "final.train=false", WORDS)


def pool(run: Path, kind: str = "template") -> dict[str, list[str]]:
    """Texts of one kind by source."""
    found: dict[str, list[str]] = {}
    with Store.open(f"sqlite:///{run / 'study.db'}", create=False) as store:
        (study,) = queries.studies(store)
        for entry in store.pool(study.id, kind):
            found.setdefault(entry.source, []).append(entry.text)
    return found


def test_a_t5_writes_the_templates_of_another_model(
    writer: Callable[[str], Path], tiny_model: Path, toy_data: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    key = f"proposals.generator={writer('t5')}"
    said = toy.search(toy_data, run, tiny_model, *SHORT, key)
    templates = pool(run)
    assert set(templates) == {"manual", "generated"}
    assert len(templates["generated"]) >= 8
    for text in templates["generated"]:
        check_template(parse(text), "single")
    assert "generation" in said.err
    # who wrote them is fixed with the study, and asked for no more once they are written
    other = toy.command("search", toy_data, "--out", run, "proposals.generator=builtin")
    assert other.code == 2
    assert "proposals.generator" in other.err
    assert "another --out" in other.err
    again = toy.command("search", toy_data, "--out", run)
    assert again.code == 0, again.err
    assert "generation" not in again.err


@pytest.fixture
def asked(toy_data: Path, tiny_model: Path) -> Callable[..., tuple[Any, list[str]]]:
    """propose() for a model, a generator and a time: what it brings, and what it says."""
    rows = tuple(Example(text, label=label) for text, label in toy.rows())

    def ask(generator: str, model: Path = tiny_model, seconds: float | None = None) -> Any:
        said: list[str] = []
        workshop = Workshop(make_task(rows), str(model), "cpu", "fp32", rows)
        given: dict[str, Any] = {"count": 16, "seed": 0, "seconds": seconds, "say": said.append}
        return propose(workshop, rows, GUIDE, generator=generator, **given), said

    return ask


def test_a_searched_t5_writes_its_own(asked: Any, writer: Callable[[str], Path]) -> None:
    found, said = asked("", writer("t5"))
    assert len(found) >= 8
    assert {one.source for one in found} == {"generated"}
    assert len(said) == 1  # nothing is loaded for it


@pytest.mark.parametrize("family", ["bart", "bert"])
def test_what_fills_no_gaps_leaves_it_to_infilling(
    family: str, asked: Any, tiny_checkpoint: Callable[..., Path]
) -> None:
    name = str(tiny_checkpoint(family))
    found, said = asked(name, tiny_checkpoint("distilbert"), seconds=2.0)
    assert found
    assert "generated" not in {one.source for one in found}
    (line,) = [line for line in said if "proposals.generator" in line]
    assert name in line
    assert "infilled instead" in line


def test_a_damaged_one_leaves_it_to_infilling(
    asked: Any, writer: Callable[[str], Path], tmp_path: Path
) -> None:
    for file in writer("t5").iterdir():
        if file.suffix != ".safetensors":
            (tmp_path / file.name).write_bytes(file.read_bytes())
    found, said = asked(str(tmp_path), seconds=2.0)
    assert found
    (line,) = [line for line in said if "proposals.generator" in line]
    assert "cannot be loaded" in line


def test_without_time_the_searched_model_infills(asked: Any, writer: Callable[[str], Path]) -> None:
    found, said = asked(str(writer("t5")), seconds=0.0)
    assert found
    assert any("in its time or steps" in line for line in said)


def test_a_causal_model_writes_its_own(asked: Any, tiny_checkpoint: Callable[..., Path]) -> None:
    found, said = asked("", tiny_checkpoint("gpt2"))
    assert len(found) == 16
    assert said == ["proposing templates by writing on"]
    texts = [one.text for one in found]
    assert len({text.lower() for text in texts}) == 16
    for text in texts:
        template = parse(text)
        check_template(template, "single")
        assert ends_with_mask(template)
        assert any(part.kind == "literal" for part in template.parts[:-2])  # words of its own
    assert asked("", tiny_checkpoint("gpt2"))[0] == found
    found, said = asked(str(tiny_checkpoint("bert")), tiny_checkpoint("gpt2"))
    assert found
    assert "templates are written by the searched model instead" in said[0]


def test_a_model_that_can_do_neither_has_no_proposals(
    asked: Any, writer: Callable[[str], Path]
) -> None:
    found, said = asked("", writer("t5"), seconds=0.0)
    assert found == ()
    assert "no templates are proposed" in said[-1]


def test_a_writer_too_large_for_the_memory_leaves_it_to_infilling(
    asked: Any, writer: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")

    monkeypatch.setattr(generation, "propose_templates", full)
    found, said = asked(str(writer("t5")), seconds=2.0)
    assert found
    (line,) = [line for line in said if "memory" in line]
    assert line.startswith("proposals.generator")
    assert "infilled instead" in line


def test_a_missing_one_leaves_it_to_infilling(
    toy_data: Path, tiny_model: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    missing = f"proposals.generator={tmp_path / 'none'}"
    said = toy.search(toy_data, run, tiny_model, *SHORT, missing)
    (line,) = [line for line in said.err.splitlines() if "proposals.generator" in line]
    assert str(tmp_path / "none") in line
    assert "infilled instead" in line
    assert len(pool(run)) > 1
    assert "generated" not in pool(run)


def test_the_writer_is_let_go(
    asked: Any, writer: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = []
    plain = load.load_model

    def watched(name: str, **options: Any) -> Any:
        model = plain(name, **options)
        kept.append(weakref.ref(model))
        return model

    monkeypatch.setattr(load, "load_model", watched)
    for seconds in (None, 0.0):  # with templates and without
        kept.clear()
        asked(str(writer("t5")), seconds=seconds)
        assert len(kept) == 2  # the searched model and the writer
        assert kept[1]() is None
