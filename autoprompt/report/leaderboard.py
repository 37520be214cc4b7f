"""The leaderboard: one ranked row a trial, and who won. Reads records; draws nothing."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from autoprompt.data.metrics import few_blocks, lower_bound
from autoprompt.report.members import Members, members, method_line, readable, template_line
from storage import queries
from storage.records import StudyRecord, TrialRecord
from storage.store import Store

BASELINE_METHODS = frozenset({"majority", "tfidf", "tfidf_nb", "embeddings", "fine_tuning"})

#: Fewer blocks than this have no standard deviation, so no bound.
ENOUGH_BLOCKS = 2


@dataclass(frozen=True)
class Row:
    """One trial. Scores are fractions; `seconds` is the trial's own time; `rank` counts from 1.

    `stage` says where the figures come from ("confirm" = blocks no choice was made on, "search",
    or "" without any block); `scores` holds the study's metric a block, as (block, value);
    `search_mean` what the search believed before confirming; `block_seconds` what one of the
    trial's own blocks took, of either stage. These three stay out of the JSON.
    """

    rank: int
    trial: int
    state: str
    baseline: bool
    method: str
    template: str | None
    label_words: dict[str, list[str]] | None
    settings: dict[str, Any]
    metric: str
    mean: float | None
    sd: float | None
    lower_bound: float | None
    blocks: int
    seconds: float
    tokens: int = 0
    stage: str = ""
    scores: tuple[tuple[int, float], ...] = ()
    search_mean: float | None = None
    block_seconds: float = 0.0
    digest: str = ""
    error: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """The JSON row, keys in the order the documentation gives them."""
        keys = (
            "rank trial state baseline method template label_words settings metric mean sd"
            " lower_bound blocks stage seconds"
        )
        row = {key: getattr(self, key) for key in keys.split()}
        if self.members:
            row["settings"] = self.settings | {"members": readable(self.members)}
        return row

    @property
    def few(self) -> bool:
        """Whether its blocks are too few for the lower bound to be relied on."""
        return few_blocks(self.blocks, self.sd)

    @property
    def members(self) -> Members:
        """Of an ensemble, the values of the prompts it is made of."""
        return members(self.settings)

    @property
    def title(self) -> str:
        """The method for people; of an ensemble also how many prompts and how they are weighted,
        and how it shows demonstrations: `in_context (2 filter x4)`."""
        name = method_line(self.method, self.settings)
        if count := self.settings.get("demonstrations", 0):
            policy = self.settings.get("demonstration_policy", "random")
            samples = self.settings.get("demonstration_samples", 1)
            name += f" ({count} {policy}" + (f" x{samples})" if samples > 1 else ")")
        return name

    @property
    def confirmed(self) -> bool:
        return self.state == "complete" and self.stage == "confirm"


def rows(store: Store, study: StudyRecord) -> list[Row]:
    """All trials of the study, baselines among them, ranked.

    Order: confirmed, complete, pruned, running, failed; the first two by lower bound, those of too
    few blocks for one below them; then all by mean (none last), then trial id, so that the order is
    total and the same every time.
    """
    return ranked(queries.trials(store, study.id), study)


def ranked(trials: Sequence[TrialRecord], study: StudyRecord) -> list[Row]:
    """`rows` for records already in hand.

    Trials of one candidate share its blocks: a repeat is scored on what was ever measured of it.
    """
    pooled: dict[str, dict[tuple[str, int], float]] = {}
    for trial in trials:
        pooled.setdefault(trial.candidate.digest, {}).update(_scores(trial, study.metric))
    unranked = [_row(trial, study, pooled[trial.candidate.digest]) for trial in trials]
    return [
        replace(row, rank=rank) for rank, row in enumerate(sorted(unranked, key=_order), start=1)
    ]


def row(trial: TrialRecord, study: StudyRecord) -> Row:
    """The row of one trial by itself, rank 0: what is known at the moment the trial ends."""
    return _row(trial, study, _scores(trial, study.metric))


def distinct(ranked_rows: Iterable[Row]) -> list[tuple[Row, tuple[int, ...]]]:
    """One row a candidate (its best ranked), each with the trial ids that repeated it.

    A baseline that the sampler tried as well keeps its own row.
    """
    best: dict[tuple[bool, str], Row] = {}
    repeats: dict[tuple[bool, str], list[int]] = {}
    for one in ranked_rows:
        key = one.baseline, one.digest or f"trial {one.trial}"
        if key in best:
            repeats[key].append(one.trial)
        else:
            best[key] = one
            repeats[key] = []
    return [(one, tuple(repeats[key])) for key, one in best.items()]


def winner(ranked_rows: Sequence[Row]) -> Row | None:
    """The best complete prompt; in a study of other methods alone, the best of those.

    Baseline rows never win: the winner is what the search found.
    """
    found = [one for one in ranked_rows if one.state == "complete" and not one.baseline]
    prompts = [one for one in found if one.method not in BASELINE_METHODS]
    searched_prompts = any(
        one.method not in BASELINE_METHODS for one in ranked_rows if not one.baseline
    )
    return next(iter(prompts if searched_prompts else found), None)


def baseline_ahead(ranked_rows: Sequence[Row]) -> Row | None:
    """The baseline that ranks highest, if its bound is above the winner's; else None. Where either
    has too few blocks for a bound to rely on, their means are compared.

    Other methods the sampler tried count as well: the user should take whatever is surest.
    """
    best = winner(ranked_rows)
    rivals = [
        one
        for one in ranked_rows
        if one.state == "complete"
        and one.lower_bound is not None
        and (one.baseline or one.method in BASELINE_METHODS)
        and (best is None or one.trial != best.trial)
    ]
    if not rivals:
        return None
    top = min(rivals, key=_order)
    if best is None or best.mean is None:
        return top
    if top.few or best.few:
        return top if _mean(top) > best.mean else None
    return top if _bound(top) > _bound(best) else None


def first_line(ranked_rows: Sequence[Row]) -> str:
    """The answer in one line; a baseline that is surer than the winner comes first."""
    best = winner(ranked_rows)
    rival = baseline_ahead(ranked_rows)
    won = f"best prompt: {_figures(best)}" if best else "no prompt trial is complete yet"
    if best and best.method in BASELINE_METHODS:
        won = f"best trial: {_figures(best)}"
    if best and best.few:
        won += ", too few for a bound to rely on"
    if rival:
        unsure = rival.few or (best is not None and best.few)
        better = "mean" if unsure else "lower bound"
        doubt = ", few to compare by: give more minutes" if unsure else ""
        return (
            f"A baseline has the higher {better}: {_figures(rival)}{doubt}"
            f" (take it with --trial {rival.trial}); {won}"
        )
    return won[0].upper() + won[1:]


COLUMNS = (
    "rank",
    "trial",
    "state",
    "method",
    "mean ± sd",
    "lower bound",
    "blocks",
    "seconds",
    "template",
    "label words",
)


def table(ranked_rows: Sequence[Row]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Column heads and lines of text, for a terminal to draw."""
    lines: list[tuple[str, ...]] = [
        (
            str(one.rank),
            str(one.trial),
            one.state,
            f"{one.title} (baseline)" if one.baseline else one.title,
            spread(one.mean, one.sd),
            figure(one.lower_bound),
            f"{one.blocks} {one.stage}".strip(),
            f"{one.seconds:.1f}",
            asked(one),
            words_line(one.label_words),
        )
        for one in ranked_rows
    ]
    return COLUMNS, lines


def patterns(one: Row) -> tuple[str, ...]:
    """The templates of an ensemble's models, () for a row of one template or none."""
    return tuple(json.loads(one.settings.get("patterns", "[]")))


def asked(one: Row) -> str:
    """What the row asks with, on one line: its template, or of several their number and the first;
    '' where it has none."""
    several = patterns(one)
    if not several:
        return template_line(one.template, one.settings)
    return f"{len(several)} pattern{'s' if len(several) > 1 else ''}: {several[0]}" + (
        " …" if len(several) > 1 else ""
    )


def figure(value: float | None) -> str:
    """A score with three decimals, or a dash."""
    return "–" if value is None or math.isnan(value) else f"{value:.3f}"


def spread(mean: float | None, sd: float | None) -> str:
    """`mean ± sd`; without a standard deviation the mean alone."""
    return figure(mean) if mean is None or sd is None else f"{figure(mean)} ± {figure(sd)}"


def words_line(label_words: dict[str, list[str]] | None) -> str:
    """`label=word,word` a label, as `--words` takes them; `;` between, as labels hold spaces."""
    pairs = (label_words or {}).items()
    return "; ".join(f"{' '.join(label.split())}={','.join(words)}" for label, words in pairs)


def _figures(one: Row) -> str:
    text = f"trial {one.trial} ({one.title}), {one.metric} {spread(one.mean, one.sd)}"
    if one.lower_bound is not None:
        text += f", lower bound {figure(one.lower_bound)}"
    blocks = "block" if one.blocks == 1 else "blocks"
    return f"{text} over {one.blocks} {one.stage} {blocks}".replace("  ", " ")


def _scores(trial: TrialRecord, metric: str) -> dict[tuple[str, int], float]:
    return {(one.stage, one.block): one.metrics[metric] for one in trial.blocks}


def _row(trial: TrialRecord, study: StudyRecord, pooled: dict[tuple[str, int], float]) -> Row:
    by_stage = {
        stage: tuple(sorted((block, value) for (at, block), value in pooled.items() if at == stage))
        for stage in ("search", "confirm")
    }
    stage = "confirm" if len(by_stage["confirm"]) >= ENOUGH_BLOCKS else "search"
    scores = by_stage[stage]
    values = [value for _, value in scores]
    searched = [value for _, value in by_stage["search"]]
    enough = len(values) >= ENOUGH_BLOCKS
    return Row(
        rank=0,
        trial=trial.id,
        state=trial.state,
        baseline=trial.baseline,
        method=trial.candidate.method,
        template=trial.candidate.template,
        label_words=trial.candidate.label_words,
        settings=trial.candidate.settings,
        metric=study.metric,
        mean=statistics.fmean(values) if values else None,
        sd=statistics.stdev(values) if enough else None,
        lower_bound=lower_bound(values, 1 / (study.folds - 1)) if enough else None,
        blocks=len(values),
        seconds=trial.seconds,
        tokens=trial.tokens,
        stage=stage if values else "",
        scores=scores,
        search_mean=statistics.fmean(searched) if searched else None,
        block_seconds=trial.seconds / max(1, len(trial.blocks)),
        digest=trial.candidate.digest,
        error=trial.error,
    )


def _bound(one: Row) -> float:
    return -math.inf if one.lower_bound is None else one.lower_bound


def _mean(one: Row) -> float:
    return -math.inf if one.mean is None else one.mean


def _order(one: Row) -> tuple[int, bool, float, float, int]:
    groups = {"complete": 1, "pruned": 2, "running": 3, "failed": 4}
    group = 0 if one.confirmed else groups.get(one.state, 5)
    # A pruned trial saw few, easy-or-hard blocks: its bound says nothing its mean does not.
    by_bound = group < 2 and not one.few
    return group, not by_bound, -_bound(one) if by_bound else 0.0, -_mean(one), one.trial
