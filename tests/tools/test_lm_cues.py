"""Cues: which words can answer is counted from text, and an answer stands nowhere in its line."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy
import pytest
import torch

from autoprompt.models import builtin

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))  # the tools are no installed package

from tools import lm_cues, lm_text  # noqa: E402

THINGS = ("chair", "letter", "phone", "coat", "ticket", "window")
QUALITIES = ("heavy", "broken", "terrible", "lovely")


@pytest.fixture(scope="module")
def tokenizer():
    return builtin.load_tokenizer(builtin.sentence_encoder_path())


@pytest.fixture(scope="module")
def lines(tokenizer):
    texts = [
        f"The {thing} was {quality}. A {quality} {other} stood near the {thing}."
        for _ in range(24)
        for thing in THINGS
        for other in THINGS
        for quality in QUALITIES
    ]
    return lm_text.tokenise(texts, tokenizer, 64)


@pytest.fixture(scope="module")
def kinds(lines, tokenizer):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lm_cues, "COMMON", 8)  # of a toy language
        return lm_cues.find_kinds(lines.ids, tokenizer)


def test_qualities_and_topics_are_told_apart(kinds, tokenizer):
    found = [
        set(tokenizer.convert_ids_to_tokens(row.nonzero()[:, 0].tolist())) for row in kinds.answers
    ]
    assert found[lm_cues.QUALITY] == set(QUALITIES)
    assert found[lm_cues.TOPIC] <= {*THINGS, "stood", "near"}
    assert len(found[lm_cues.TOPIC] & set(THINGS)) >= 4


@pytest.mark.parametrize("cue", range(len(lm_cues.CUES)))
def test_an_answer_is_hidden_everywhere_and_the_line_is_kept(
    cue, lines, kinds, tokenizer, monkeypatch
):
    monkeypatch.setattr(lm_cues, "CUES", (lm_cues.CUES[cue],))
    kind, before, behind = lm_cues.CUES[0]
    ids = lm_text.fill_batch([(0, n) for n in range(40)], [lines], tokenizer.pad_token_id)
    nothing = torch.zeros_like(ids, dtype=torch.bool)
    generator = torch.Generator().manual_seed(0)
    made = lm_cues.add_cue(ids, nothing, kinds, tokenizer, generator)
    assert made.shown.shape == made.targets.shape == made.masked.shape
    assert made.shown.shape[1] % lm_text.LENGTH_STEP == 0
    answers = made.targets[torch.arange(40), made.places]
    assert kinds.answers[kind][answers].all()
    assert not (made.shown == answers[:, None]).any()
    assert (made.shown == tokenizer.mask_token_id).equal(made.masked)
    assert made.masked.sum(dim=1).min() >= 2  # the cue's mask and at least one in the line
    words = tokenizer.convert_ids_to_tokens
    for row, old in zip(made.targets, made.lines, strict=True):
        body = words(old[(old != tokenizer.pad_token_id)].tolist())[1:-1]
        shown = words(row[row != tokenizer.pad_token_id].tolist())
        head, tail = before.split(), behind.split()
        middle = shown[1 + len(head) : len(shown) - 1 - len(tail)]
        assert middle == body
        assert (shown[0], shown[-1]) == ("[CLS]", "[SEP]")


def test_lines_without_a_fitting_word_answer_with_any(kinds, tokenizer):
    lines = lm_text.tokenise(["It was on the.", "He is in it."], tokenizer, 16)
    ids = lm_text.fill_batch([(0, 0), (0, 1)], [lines], tokenizer.pad_token_id)
    nothing = torch.zeros_like(ids, dtype=torch.bool)
    for seed in range(8):
        generator = torch.Generator().manual_seed(seed)
        made = lm_cues.add_cue(ids, nothing, kinds, tokenizer, generator)
        answers = made.targets[torch.arange(2), made.places]
        assert not numpy.isin(answers.numpy(), tokenizer.all_special_ids).any()
