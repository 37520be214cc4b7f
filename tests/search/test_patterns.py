"""Sets of templates: which are frozen before a search, and which a finished one suggests."""

from __future__ import annotations

import json
from typing import Any

from autoprompt.learners.build import read_patterns
from autoprompt.report.leaderboard import Row
from autoprompt.search.choices import PATTERNS, Pools
from autoprompt.search.patterns import pet_of, with_patterns
from storage.records import PoolEntry


def entry(number: int, source: str, score: float | None, text: str = "") -> PoolEntry:
    text = text or f"{{text}} {number} {{mask}}"
    return PoolEntry("template", f"t{number:03d}", text, source, score)


def sets(*entries: PoolEntry) -> list[tuple[str, str, list[str]]]:
    found = with_patterns(Pools(entries))
    return [
        (found.entry(name).short_id, found.entry(name).source, json.loads(found.entry(name).text))
        for name in found.ids(PATTERNS)
    ]


def test_the_users_set_comes_first_then_the_best_ranked() -> None:
    pool = (
        entry(0, "user", -0.9),
        entry(1, "user", -0.5),
        entry(2, "manual", -0.3),
        entry(3, "infill", None),  # the ranking had no time for it
        entry(4, "infill", -0.4),
        entry(5, "user", -0.1, "{soft:2} {text} {mask}"),  # nothing trains a slot here
    )
    zero, one, two, four = (entry(n, "", None).text for n in (0, 1, 2, 4))
    assert sets(*pool) == [
        ("p00", "user", [zero, one]),
        ("p01", "rank", [two, four, one]),
        ("p02", "rank", [two, four]),
        ("p03", "rank", [two, four, one, zero]),
    ]


def test_few_templates_give_few_sets() -> None:
    assert [chosen for *_, chosen in sets(entry(0, "manual", -1.0))] == [["{text} 0 {mask}"]]
    assert len(sets(entry(0, "user", -1.0), entry(1, "user", -2.0))) == 1


def row(rank: int, template: str | None, method: str = "hard", **changes: Any) -> Row:
    settings = {"trainable": "all", "learning_rate": 1e-4 * rank, "steps": 15, "batch_size": 8}
    values: dict[str, Any] = {
        "rank": rank,
        "trial": rank,
        "state": "complete",
        "baseline": False,
        "method": method,
        "template": template,
        "label_words": {"bad": [f"dull{rank}"], "good": ["brave"]},
        "settings": settings,
        "metric": "accuracy",
        "mean": 0.9,
        "sd": 0.1,
        "lower_bound": 0.8,
        "blocks": 4,
        "seconds": 1.0,
    }
    return Row(**(values | changes))


def test_an_ensemble_of_the_best_rows() -> None:
    untrained = {"trainable": "none", "words_recipe": "3 of 300 words"}
    ranked = [
        row(1, None, "fine_tuning", baseline=True),
        row(2, "{text} a {mask}", "zero_shot", settings=untrained),
        row(3, "{text} a {mask}"),
        row(4, "{text} b {mask}", state="pruned"),
        row(5, "{soft:2} {text} {mask}", "p_tuning"),
        row(6, "{text} c {mask}"),
        row(7, "{text} d {mask}"),
        row(8, "{text} e {mask}"),
    ]
    found = pet_of(ranked)
    assert found is not None
    assert read_patterns(found["patterns"]) == (
        "{text} a {mask}",
        "{text} c {mask}",
        "{text} d {mask}",
    )
    assert json.loads(found["words"]) == {"bad": ["dull2"], "good": ["brave"]}
    assert found["words_recipe"] == "3 of 300 words"
    assert (found["learning_rate"], found["steps"]) == (1e-4 * 3, 15)
    assert read_patterns(pet_of(ranked, patterns=2)["patterns"]) == (
        "{text} a {mask}",
        "{text} c {mask}",
    )


def test_no_ensemble_of_one_template() -> None:
    assert pet_of([]) is None
    assert pet_of([row(1, "{text} a {mask}"), row(2, "{text} a {mask}")]) is None
    assert pet_of([row(1, None, "pet"), row(2, "{text} a {mask}")]) is None


def test_what_it_suggests_can_be_built(tmp_path: Any, tiny_model: Any) -> None:
    from autoprompt.data.task import Task
    from autoprompt.learners.build import build
    from autoprompt.learners.pet import Pet
    from autoprompt.learners.workshop import Workshop

    task = Task("single", ("bad", "good"))
    words = {"bad": ["dull"], "good": ["brave"]}
    rows = [row(n, f"{{text}} {n} {{mask}}", label_words=words) for n in (1, 2)]
    candidate = pet_of(rows)
    assert candidate is not None
    workshop = Workshop(task, str(tiny_model), "cpu", "fp32")
    assert isinstance(build(candidate, task, workshop), Pet)
