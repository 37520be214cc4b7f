"""How fast a study goes: candidates an hour, tokens a second, how well the machine is used. Reads
records; draws nothing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from storage.records import TrialRecord, no_time

ENDED = ("complete", "pruned", "failed")


@dataclass(frozen=True)
class Pace:
    """Of the sampler's trials that have ended, over the time of the search: gaps of an interrupted
    run and the confirmation do not count, and trials that trained together share their time. Those
    that ended before their first block, as there was no time for it, are counted in no_time alone.

    tokens_a_second: that passed the model, without padding. rode: how many trained in a batch that
    can be shared, the model frozen; alone: how many trained by themselves, weights of the model
    among what they trained.
    """

    candidates_an_hour: float
    tokens_a_second: float
    rode: int
    alone: int
    no_time: int = 0
    use: Use | None = None


@dataclass(frozen=True)
class Use:
    """lanes: trials computed side by side in the last call, each with a model of its own.
    rows_a_pass: that went through the model together. padding: share of what was computed.
    operations_a_second: of the model's products, by its sizes, over the time of the search, and
    their share of what the machine did in a large product, whose rate is machine_rate."""

    lanes: int
    rows_a_pass: float
    padding: float
    operations_a_second: float
    machine_rate: float
    share: float


def use(work: Mapping[str, float] | None) -> Use | None:
    """From what a study has counted; None where that is nothing."""
    if not work or not work.get("passes") or not work.get("seconds") or not work.get("rate"):
        return None
    rate = work["operations"] / work["seconds"]
    return Use(
        lanes=int(work.get("lanes", 1)),
        rows_a_pass=round(work["rows"] / work["passes"], 1),
        padding=round(1.0 - work["tokens"] / work["places"], 3),
        operations_a_second=round(rate, 0),
        machine_rate=round(work["rate"], 0),
        share=round(rate / work["rate"], 3),
    )


def pace(trials: Sequence[TrialRecord], work: Mapping[str, float] | None = None) -> Pace | None:
    """None where no trial has ended yet, or none took any time. work: of the study's record; of
    studies older than that, time and tokens are those of the trials, with their confirmation."""
    ended = [one for one in trials if one.optuna_number is not None and one.state in ENDED]
    tried = [one for one in ended if not no_time(one.state, len(one.blocks))]
    if work and work.get("seconds"):
        busy, tokens = work["seconds"], work.get("tokens", 0.0)
    else:
        busy, tokens = (
            _covered(_span(one) for one in ended),
            float(sum(one.tokens for one in ended)),
        )
    if not busy or not ended:
        return None
    shared = sum(_rides(one) for one in tried)
    return Pace(
        candidates_an_hour=round(3600 * len(tried) / busy, 1),
        tokens_a_second=round(tokens / busy, 1),
        rode=shared,
        alone=sum(_trains(one) for one in tried) - shared,
        no_time=len(ended) - len(tried),
        use=use(work),
    )


def _span(one: TrialRecord) -> tuple[float, float]:
    began = datetime.fromisoformat(one.created).timestamp()
    return began, began + one.seconds


def _trains(one: TrialRecord) -> bool:
    return not {"steps", "prompt_steps"}.isdisjoint(one.candidate.settings)


def _rides(one: TrialRecord) -> bool:
    return _trains(one) and one.candidate.settings.get("trainable") == "prompt"


def _covered(spans: Iterable[tuple[float, float]]) -> float:
    """The length of what the spans cover together."""
    total, reached = 0.0, float("-inf")
    for low, high in sorted(spans):
        total += max(0.0, high - max(low, reached))
        reached = max(reached, high)
    return total
