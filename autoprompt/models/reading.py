"""Reading many rows with one model, in batches of similar length. Trains nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext

import torch

from autoprompt.models.backbone import Backbone
from autoprompt.models.inputs import Encoded, ModelInputs

ROWS = 32  # of a batch; more gains nothing on a CPU and little on a GPU for texts of 512 tokens


def read(
    backbone: Backbone,
    rows: Sequence[Encoded],
    answer: Callable[[ModelInputs], torch.Tensor],
    *,
    exactly: bool = True,
) -> torch.Tensor:
    """`answer` of every row, [N, ...] on the CPU, in the order given.

    Rows are sorted by length, so that little is padding. exactly: computed in fp32, so that a row's
    answer does not depend (beyond 1e-5) on the rows around it; without, in the model's precision.
    """
    pieces = []
    with torch.inference_mode(), backbone.exactly() if exactly else nullcontext():
        for chosen in chunks(rows):
            pieces.append(answer(backbone.batch([rows[index] for index in chosen])).cpu())
    return in_order(rows, torch.cat(pieces))


def chunks(rows: Sequence[Encoded]) -> list[list[int]]:
    """Numbers of the rows that are read at a time: of similar length, ROWS at most."""
    order = sorted(range(len(rows)), key=lambda index: len(rows[index].ids))
    return [order[start : start + ROWS] for start in range(0, len(order), ROWS)]


def in_order(rows: Sequence[Encoded], found: torch.Tensor) -> torch.Tensor:
    """What `chunks` found one after another, [N, ...], in the order of the rows."""
    restored = torch.empty_like(found)
    restored[torch.tensor([index for chosen in chunks(rows) for index in chosen])] = found
    return restored.clone()  # outside inference mode: an ordinary tensor


def read_answers(
    backbone: Backbone, rows: Sequence[Encoded], *, exactly: bool = True
) -> torch.Tensor:
    """Answer states [N, M, E] of rows that all read equally many positions."""
    return read(backbone, rows, backbone.answer_states, exactly=exactly)
