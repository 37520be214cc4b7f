"""Cutting a prompt to the room it has. Knows token pieces, not tokenizers or templates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal


class TruncationError(ValueError):
    """What must stay in the prompt (literals, mask, soft tokens) is longer than the room."""

    exit_code = 2


@dataclass(frozen=True, slots=True)
class TokenPiece:
    """Tokens of one piece; mask and soft pieces hold one id (of any value) per position."""

    kind: Literal["words", "mask", "soft"]
    ids: tuple[int, ...]
    shortenable: bool = False


def truncate(
    sides: Sequence[Sequence[TokenPiece]], room: int
) -> tuple[tuple[TokenPiece, ...], ...]:
    """Cut one or two sides to `room` tokens in all (special tokens not counted).

    PET's rule (Schick & Schütze 2021, reference code): one token at a time from the end of the
    last non-empty shortenable piece of the side with more shortenable tokens; ties cut the second
    side. Pieces that are not shortenable are never touched and emptied ones stay in place.
    `TruncationError` when even without all shortenable tokens the prompt does not fit.
    """
    if len(sides) > 2:
        raise ValueError(f"sides: {len(sides)} given; a prompt has one or two")
    lengths = [sum(len(piece.ids) for piece in side) for side in sides]
    free = [sum(len(piece.ids) for piece in side if piece.shortenable) for side in sides]
    excess = sum(lengths) - room
    if excess <= 0:
        return tuple(tuple(side) for side in sides)
    fixed = sum(lengths) - sum(free)
    if fixed > room:
        raise TruncationError(
            f"template: its own words, mask and soft tokens take {fixed} tokens, but the model's "
            f"limit leaves room for {max(room, 0)}; shorten it (or prompt_length), or use a model "
            "that reads longer inputs"
        )
    if len(sides) == 1:
        cuts = [excess]
    else:
        # First the longer side comes down to the other one, then the two take turns, the second
        # side first: the outcome of cutting one token at a time, without doing so.
        level = min(excess, abs(free[0] - free[1]))
        turns = excess - level
        first_is_longer = free[0] > free[1]
        cuts = [turns // 2, turns - turns // 2]
        cuts[0 if first_is_longer else 1] += level
    return tuple(_cut(side, cut) for side, cut in zip(sides, cuts, strict=True))


def _cut(side: Sequence[TokenPiece], count: int) -> tuple[TokenPiece, ...]:
    kept = list(side)
    for position in range(len(kept) - 1, -1, -1):
        piece = kept[position]
        if count and piece.shortenable:
            taken = min(count, len(piece.ids))
            kept[position] = replace(piece, ids=piece.ids[: len(piece.ids) - taken])
            count -= taken
    return tuple(kept)


def level(side: Sequence[TokenPiece], room: int) -> tuple[TokenPiece, ...]:
    """A side that is all there is, its texts cut to the room in equal lengths, or as it is.

    PET's rule, made for a text a side, would take the last one whole before it cut another.
    """
    lengths = [len(piece.ids) for piece in side if piece.shortenable]
    fixed = sum(len(piece.ids) for piece in side) - sum(lengths)
    if not fixed <= room < fixed + sum(lengths):
        return tuple(side)
    kept = iter(shares(lengths, room - fixed))
    return tuple(
        replace(piece, ids=piece.ids[: next(kept)]) if piece.shortenable else piece
        for piece in side
    )


def shares(lengths: Sequence[int], room: int) -> list[int]:
    """How many tokens each text keeps of `room` in all: as many as the others, but for a token
    where it does not come out even, or all it has."""
    left, kept = room, [0] * len(lengths)
    order = sorted(range(len(lengths)), key=lambda place: lengths[place])
    for done, place in enumerate(order):
        kept[place] = min(lengths[place], left // (len(lengths) - done))
        left -= kept[place]
    return kept


def shorten_evenly(
    sequences: Sequence[Sequence[TokenPiece]], rounds: Sequence[int], room: int, least: int
) -> list[tuple[TokenPiece, ...] | None]:
    """Cut all shortenable pieces of the sequences to one length so that they fit `room`.

    Where that would leave less than `least` tokens of a longer piece, the sequences of the highest
    round are left out (None), then those of the next.
    """
    kept = sorted(set(rounds))
    while kept:
        chosen = [n for n, one in enumerate(rounds) if one <= kept[-1]]
        texts = [len(p.ids) for n in chosen for p in sequences[n] if p.shortenable]
        fixed = sum(len(p.ids) for n in chosen for p in sequences[n] if not p.shortenable)
        if fixed + sum(min(length, least) for length in texts) <= room:
            sizes = iter(shares(texts, room - fixed))
            found: list[tuple[TokenPiece, ...] | None] = [None] * len(sequences)
            for n in chosen:
                found[n] = tuple(
                    replace(p, ids=p.ids[: next(sizes)]) if p.shortenable else p
                    for p in sequences[n]
                )
            return found
        kept.pop()
    return [None] * len(sequences)
