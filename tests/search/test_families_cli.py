"""From labelled texts to labels by the installed command, on models that know a toy language: one
of each kind, with a winner of words, of soft tokens and of a dynamic prompt."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import launched
import pytest
import toy
import toy_language

TEMPLATES = {"bert": "{text} it was {mask} .", "gpt2": "{text} it was {mask}"}
RATES = {"t5": 1e-1}  # whose embeddings lie far apart
#: What is searched: the right settings are known, finding them is another test's business.
WINNERS = {
    "hard": ("--preset", "hard", "space.learning_rate=[3e-3]", "space.steps=[80]"),
    "prompt_tuning": (
        *("--preset", "prompt_tuning", "space.prompt_position=[after_bos]"),
        *("space.prompt_length=[4]", "space.prompt_init=[random]"),
        "space.prompt_steps=[200]",
    ),
    "dynamic": (
        *("--preset", "dynamic", "space.controller=[adap_ins_vec_pos]", "space.pool_size=[2]"),
        *("space.prompt_length=[4]", "space.prompt_init=[random]", "space.annealing=[1.0]"),
        "space.prompt_steps=[200]",
    ),
}
DIAGONAL = {("bert", "dynamic"), ("gpt2", "prompt_tuning"), ("t5", "hard")}
CASES = [
    pytest.param(family, method, marks=() if (family, method) in DIAGONAL else pytest.mark.slow)
    for family in ("bert", "gpt2", "t5")
    for method in WINNERS
]


def command(folder: Path, *arguments: object) -> str:
    """What the command says on stdout, as a process of its own in `folder`; it must succeed."""
    said = launched.autoprompt(*arguments, cwd=folder)
    assert said.code == 0, said.err
    return said.out


def labels(lines: str) -> list[tuple[str, dict[str, float]]]:
    rows = [json.loads(line) for line in lines.splitlines()]
    return [(row["label"], row["proba"]) for row in rows]


def csv(path: Path, count: int, seed: int) -> Sequence[str]:
    """Write texts labelled by the kind of the second thing; their labels."""
    rows = toy_language.rows(count, seed, "second")
    toy.write_csv(path, [(row.text, str(row.label)) for row in rows])
    return [str(row.label) for row in rows]


@pytest.mark.parametrize(("family", "method"), CASES)
def test_from_texts_to_labels(
    family: str, method: str, taught: Callable[[str], Path], tmp_path: Path
) -> None:
    csv(tmp_path / "train.csv", 48, 0)
    gold = csv(tmp_path / "test.csv", 100, 99)
    template = TEMPLATES.get(family, TEMPLATES["bert"])
    small = ("--trials", 1, "blocks.seeds=1", "blocks.folds=3", "confirm.blocks=2", "confirm.top=1")
    given = (f'space.template=["{template}"]', 'space.words=["negative=bad; positive=good"]')
    rate = f"space.prompt_learning_rate=[{RATES.get(family, 1e-2)}]"
    learned = () if method == "hard" else (rate,)
    search = ("search", "train.csv", "--out", "run", "--model", taught(family), "--device", "cpu")
    command(tmp_path, *search, *WINNERS[method], *learned, *small, *given, "train.precision=fp32")

    told = json.loads(command(tmp_path, "test", "run", "test.csv", "--json"))
    assert told["accuracy"] >= 0.9
    board = json.loads(command(tmp_path, "leaderboard", "run", "--json"))
    assert next(row for row in board if row["trial"] == told["trial"])["method"] == method

    command(tmp_path, "export", "run", "bundle")
    first, again = (
        labels(command(tmp_path, "predict", "bundle", "test.csv", "--proba")) for _ in range(2)
    )
    right = sum(label == wanted for (label, _), wanted in zip(first, gold, strict=True))
    assert right / len(gold) == told["accuracy"]
    for (label, proba), (label_again, proba_again) in zip(first, again, strict=True):
        assert label == label_again
        assert proba == pytest.approx(proba_again, abs=1e-5)
