"""Who writes a study's templates: a T5, or the searched model by infilling. Knows no pools.

What was done instead of what was asked for is told in a line. A model that is loaded to write is
let go again.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from autoprompt.data.task import Example
from autoprompt.learners.workshop import Workshop
from autoprompt.models.backbone import Backbone, ModelError
from autoprompt.proposals.base import Proposal
from autoprompt.text.verbalizer import Verbalizer

KEY = "proposals.generator"


def propose(
    workshop: Workshop,
    rows: Sequence[Example],
    guide: Verbalizer,
    *,
    generator: str,
    count: int,
    seed: int,
    seconds: float | None,
    say: Callable[[str], None],
) -> tuple[Proposal, ...]:
    """Up to `count` templates by the model named `generator`; without a name, by the searched one.

    One that fills gaps as T5 does generates them. Where that is not to be had, or brings none, the
    searched model does it: a masked LM infills them, a causal one writes on; other kinds do not.
    `seconds`: about how long all may take; None = as long as it needs.
    """
    import torch

    end = None if seconds is None else time.monotonic() + seconds
    found: tuple[Proposal, ...] = ()
    way = _own_way(workshop.backbone)
    try:
        found = _generated(workshop, rows, guide, generator, count, seed, seconds, say)
    except (ModelError, torch.OutOfMemoryError) as error:
        instead = f"templates are {way.done} instead" if way else "no templates are proposed"
        say(f"{KEY if generator else 'templates'}: {_reason(error)}; {instead}")
    _let_go(workshop.device)
    if found or way is None:
        return found
    say(f"proposing templates by {way.name}")
    return way.propose(
        workshop.backbone,
        rows,
        workshop.task,
        guide,
        embed=lambda texts: workshop.encoder_for(texts).embed(texts),
        count=count,
        seed=seed,
        seconds=None if end is None else max(0.0, end - time.monotonic()),
    )


class _Way(NamedTuple):
    """How a searched model proposes templates itself."""

    name: str
    done: str
    propose: Callable[..., tuple[Proposal, ...]]


def _own_way(backbone: Backbone) -> _Way | None:
    from autoprompt.proposals import continuation, infill

    if not backbone.one_token:  # infilling fills several gaps
        return _Way("infilling", "infilled", infill.propose_templates)
    if backbone.reads_onwards:
        return _Way("writing on", "written by the searched model", continuation.propose_templates)
    return None


def _generated(
    workshop: Workshop,
    rows: Sequence[Example],
    guide: Verbalizer,
    name: str,
    count: int,
    seed: int,
    seconds: float | None,
    say: Callable[[str], None],
) -> tuple[Proposal, ...]:
    """() where nobody is asked to generate; `ModelError` where one that is asked cannot."""
    from autoprompt.models.checkpoint import checkpoint_kind
    from autoprompt.models.load import load_model
    from autoprompt.proposals.generation import can_generate, propose_templates

    writer: Backbone | None = workshop.backbone
    if name not in ("", workshop.model):
        writer = None
        if checkpoint_kind(name) == "seq2seq":
            say(f"loading {name} to write templates")
            writer = load_model(name, device=workshop.device, precision=workshop.precision)
    if writer is None or not can_generate(writer):
        if name:
            raise ModelError(f"{name!r} fills no gaps (give a T5- or mT5-like model)")
        return ()
    say(f"proposing templates by generation with {writer.name}")
    found = propose_templates(
        writer,
        workshop.backbone,
        rows,
        workshop.task,
        guide,
        embed=lambda texts: workshop.encoder_for(texts).embed(texts),
        count=count,
        seed=seed,
        seconds=seconds,
    )
    if not found:
        raise ModelError(f"{writer.name!r} finished no valid template in its time or steps")
    return found


def _let_go(device: str) -> None:
    """Give back the memory of a model that nobody holds any more."""
    gc.collect()
    if device.startswith("cuda"):
        import torch

        torch.cuda.empty_cache()


def _reason(error: Exception) -> str:
    if isinstance(error, ModelError):
        # the built-in model fills no gaps
        return str(error).removeprefix("model: ").replace("give 'builtin', an", "give an")
    return (
        "its model and its beam are too large for the memory of the device (a smaller one will do)"
    )
