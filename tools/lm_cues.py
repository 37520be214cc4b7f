"""Lines of text as prompts: a cue with a mask whose answer is a word of the line. Knows no model.

Plain masked text hardly ever asks for a word that sums a passage up, which is all that a prompt
asks. So some batches put a cue such as `it was [MASK] .` or `[MASK] :` beside each line; the answer
is a word of that line, hidden there in every place. Which words can answer is counted from the
text itself, no label is read: qualities are words seen both as `was WORD .` and as `a WORD thing`,
topics are words that are neither common nor qualities. (Pre-training on the form of the
task: gap sentences in Zhang et al. 2020, PEGASUS; Gu et al. 2022, PPT.)
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy
import torch

from tools.lm_text import padded

#: The layer from an answer's state to its line's embedding; needed in training alone.
PROJECTION = "distil.projection"
QUALITY, TOPIC = 0, 1
#: kind of the answer, words before the line, words behind it
CUES: tuple[tuple[int, str, str], ...] = (
    (QUALITY, "", "it was [MASK] ."),
    (QUALITY, "", "it is [MASK] ."),
    (QUALITY, "", "all in all , it was [MASK] ."),
    (QUALITY, "", "a [MASK] one ."),
    (QUALITY, "", "just [MASK] !"),
    (QUALITY, "", "[MASK] ."),
    (TOPIC, "", "it was about [MASK] ."),
    (TOPIC, "", "this is about [MASK] ."),
    (TOPIC, "", "[MASK] ."),
    (TOPIC, "", "topic : [MASK] ."),
    (TOPIC, "[MASK] :", ""),
    (TOPIC, "[MASK] news :", ""),
)
COMMON = 300  # words this frequent say nothing of a topic
# A quality is said of something (`was WORD .`) and stands before something (`a WORD thing`).
SAYING = ("is", "was", "are", "were", "be", "very", "so", "really", "quite", "pretty", "looks")
ENDING = (".", ",", "!", "?", ";", "but", "and")
NAMING = ("a", "an", "the", "this", "some", "very")
LEAST_SEEN, LEAST_SHARES = 10, (0.02, 0.04)  # of all a word's places, said and before


class Kinds(NamedTuple):
    """Per token id: can it answer (as a quality, as a topic), does it continue a word."""

    answers: torch.Tensor  # [2, vocabulary], boolean
    continues: torch.Tensor  # [vocabulary], boolean


def find_kinds(ids: numpy.ndarray, tokenizer: Any) -> Kinds:
    """Count qualities and topics in a stream of token ids."""
    size = tokenizer.vocab_size
    words = tokenizer.convert_ids_to_tokens(list(range(size)))
    continues = numpy.array([word.startswith("##") for word in words])
    whole = numpy.array([word.isalpha() and len(word) > 2 for word in words])
    counts = numpy.bincount(ids, minlength=size)
    said = _share(ids, counts, SAYING, ENDING, tokenizer)
    naming = _share(ids, counts, NAMING, (), tokenizer) - _share(
        ids, counts, NAMING, ENDING, tokenizer
    )
    seen = counts >= LEAST_SEEN / LEAST_SHARES[0]
    quality = whole & seen & (said >= LEAST_SHARES[0]) & (naming >= LEAST_SHARES[1])
    common = numpy.zeros(size, dtype=bool)
    common[numpy.argsort(-counts, kind="stable")[:COMMON]] = True
    topic = whole & ~common & ~quality & (counts > LEAST_SEEN)
    return Kinds(torch.from_numpy(numpy.stack([quality, topic])), torch.from_numpy(continues))


def _share(
    ids: numpy.ndarray,
    counts: numpy.ndarray,
    before: tuple[str, ...],
    behind: tuple[str, ...],
    tokenizer: Any,
) -> numpy.ndarray:
    """Per token id: the share of its places that stand between such words (no words: any)."""
    fits = numpy.isin(ids[:-2], tokenizer.convert_tokens_to_ids(list(before)))
    if behind:
        fits &= numpy.isin(ids[2:], tokenizer.convert_tokens_to_ids(list(behind)))
    return numpy.bincount(ids[1:-1][fits], minlength=len(counts)) / numpy.maximum(counts, 1)


class Cued(NamedTuple):
    """A batch of prompts: what is shown, what stood there, and where each cue's mask is."""

    shown: torch.Tensor  # [lines, longest]
    targets: torch.Tensor  # [lines, longest]: the ids; answers at the cue's mask
    masked: torch.Tensor  # [lines, longest], boolean: what is to be predicted
    places: torch.Tensor  # [lines]; empty where nothing was cued
    lines: torch.Tensor  # [lines, length]: the lines as they were


def add_cue(
    ids: torch.Tensor,
    masked: torch.Tensor,
    kinds: Kinds,
    tokenizer: Any,
    generator: torch.Generator,
) -> Cued:
    """One cue for all lines of a batch [lines, longest] with [CLS] and [SEP].

    A line without a word that could answer answers with any word. `masked`: drawn masks to keep.
    """
    kind, before, behind = CUES[int(torch.randint(len(CUES), (), generator=generator))]
    head, tail = (
        torch.tensor(tokenizer.convert_tokens_to_ids(part.split()), dtype=ids.dtype)
        for part in (before, behind)
    )
    following = torch.cat([ids[:, 1:], ids[:, :1]], dim=1)
    can = kinds.answers[kind][ids] & ~kinds.continues[following]
    ordinary = ~torch.isin(ids, torch.tensor(tokenizer.all_special_ids))
    can = torch.where(can.any(dim=1, keepdim=True), can, ordinary)
    lines, longest = ids.shape
    chosen = torch.multinomial(can.float(), 1, generator=generator)  # [lines, 1]
    answers = ids.gather(1, chosen)
    masked = masked | (ids == answers)
    lengths = (ids != tokenizer.pad_token_id).sum(dim=1)
    width = padded(longest + len(head) + len(tail))
    targets = torch.full((lines, width), tokenizer.pad_token_id, dtype=ids.dtype)
    hidden = torch.zeros((lines, width), dtype=torch.bool)
    places = torch.zeros(lines, dtype=torch.long)
    mask = tokenizer.mask_token_id
    for row in range(lines):
        length = int(lengths[row])
        body = ids[row, 1 : length - 1]
        end = 1 + len(head) + len(body)
        targets[row, 0] = ids[row, 0]
        targets[row, 1 : 1 + len(head)] = head
        targets[row, 1 + len(head) : end] = body
        targets[row, end : end + len(tail)] = tail
        targets[row, end + len(tail)] = tokenizer.sep_token_id
        hidden[row, 1 + len(head) : end] = masked[row, 1 : length - 1]
        cue = head if len(head) else tail
        offset = 1 if len(head) else end
        places[row] = offset + int((cue == mask).nonzero()[0])
    rows = torch.arange(lines)
    targets[rows, places] = answers[:, 0]
    hidden[rows, places] = True
    return Cued(targets.masked_fill(hidden, mask), targets, hidden, places, ids)
