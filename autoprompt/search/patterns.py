"""Sets of templates for ensembles: of the ranked pool before a search, of the best rows after one.

Knows templates and rows, trains nothing.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from autoprompt.report.leaderboard import Row
from autoprompt.search.choices import PATTERNS, TEMPLATE, WORDS_RECIPE, Pools
from autoprompt.text.imports import read_template
from autoprompt.text.placement import slots
from autoprompt.text.verbalizer import Verbalizer
from search_spaces.candidate import Candidate
from storage.records import PoolEntry

#: How many of the best templates a set holds.
SIZES = (3, 2, 4)
#: Of a candidate made after a search, where no tuned row says better: the middle of the preset.
AFTER_SEARCH: dict[str, Any] = {
    "learning_rate": 8e-5,
    "steps": 30,
    "batch_size": 8,
    "weight_decay": 0.0,
}


def with_patterns(pools: Pools) -> Pools:
    """The pools and, frozen like them, sets of their templates: yours, then the best ranked.

    Of equal sets the first is kept. Templates that the ranking had no time for come last.
    """
    usable = [
        entry
        for entry in pools.entries
        if entry.kind == TEMPLATE and not slots(read_template(entry.text))
    ]
    ranked = sorted(usable, key=lambda e: float("inf") if e.score is None else -e.score)
    best = [entry.text for entry in ranked]
    own = [entry.text for entry in usable if entry.source == "user"]
    sets = [(tuple(own), "user")] if own else []
    sets += [(tuple(best[:size]), "rank") for size in SIZES if best]
    entries: dict[frozenset[str], tuple[str, str]] = {}
    for chosen, source in sets:
        entries.setdefault(frozenset(chosen), (_json(chosen), source))
    return Pools(
        (
            *pools.entries,
            *(
                PoolEntry(kind=PATTERNS, short_id=f"p{n:02d}", text=text, source=source, score=None)
                for n, (text, source) in enumerate(entries.values())
            ),
        )
    )


def pet_of(ranked: Sequence[Row], patterns: int = 3) -> Candidate | None:
    """A PET of a finished search: its patterns are the best distinct templates of the complete
    rows, in the order of the leaderboard; the words are those of the best of them, rates and steps
    of the best row whose whole model was tuned. None where there are not two such templates.

    ranked: rows of the leaderboard, baselines among them; these are left out.
    """
    found: dict[str, Row] = {}
    for row in ranked:
        complete = row.state == "complete" and not row.baseline
        if not (complete and row.template and row.label_words):
            continue
        if not slots(read_template(row.template)):
            found.setdefault(row.template, row)
    if len(found) < 2:
        return None
    chosen = list(found)[:patterns]
    best = found[chosen[0]]
    assert best.label_words is not None
    words = Verbalizer(tuple((label, tuple(w)) for label, w in best.label_words.items()))
    tuned: dict[str, Any] = next(
        (
            row.settings
            for row in ranked
            if row.state == "complete"
            and not row.baseline
            and row.template
            and row.settings.get("trainable") == "all"
            and "learning_rate" in row.settings
            and "steps" in row.settings
        ),
        {},
    )
    values = {name: tuned.get(name, value) for name, value in AFTER_SEARCH.items()}
    if WORDS_RECIPE in best.settings:  # blocks choose proposed words anew
        values[WORDS_RECIPE] = best.settings[WORDS_RECIPE]
    return Candidate(
        {
            "method": "pet",
            PATTERNS: _json(chosen),
            "words": words.to_json(),
            "trainable": "all",
            "calibration": "none",
            "auxiliary_weight": 0.0,
            "repetitions": 1,
            "generations": 1,
            "distillation_learning_rate": 2e-4,
            "distillation_steps": 120,
            "temperature": 2.0,
            "reduction": "wmean",
            **values,
        }
    )


def _json(templates: Sequence[str]) -> str:
    return json.dumps(list(templates), ensure_ascii=False)
