"""Template proposals: valid, of several placements, repeatable, in time, for every family."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from typing import Any

import pytest

from autoprompt.data.task import Example, Task
from autoprompt.models.inputs import Encoded, ModelInputs, collate
from autoprompt.proposals import base, infill
from autoprompt.proposals.base import Proposal
from autoprompt.proposals.infill import Filling, mean_log_probs, propose_templates
from autoprompt.text.manual import words as manual_words
from autoprompt.text.template import check_template, parse
from autoprompt.text.verbalizer import Verbalizer

SENTIMENT = Task("single", ("negative", "positive"))
SENTIMENT_WORDS = Verbalizer((("negative", ("terrible",)), ("positive", ("great",))))
ENTAILMENT = Task("pair", ("no", "yes"))
TOGETHER = base.read_masks
ENTAILMENT_WORDS = Verbalizer((("no", ("false",)), ("yes", ("true",))))


def check(proposals: tuple[Proposal, ...], task: Task, verbalizer: Verbalizer) -> None:
    """Every proposal serves the task, holds no label word, and is not proposed twice."""
    assert len({one.text for one in proposals}) == len(proposals)
    answers = {word for label in verbalizer.labels for word in verbalizer.of(label)}
    for one in proposals:
        template = parse(one.text)
        check_template(template, task.kind)
        assert str(template) == one.text
        assert one.score <= 0.0
        literals = " ".join(part.literal.lower() for part in template.parts)
        assert answers.isdisjoint(literals.replace(".", " ").replace(",", " ").split())
        assert "##" not in one.text
        assert "[" not in one.text


@pytest.fixture(scope="module")
def proposed(builtin: Any, reviews: tuple[Example, ...], embed: Any) -> tuple[Proposal, ...]:
    return propose_templates(builtin, reviews, SENTIMENT, SENTIMENT_WORDS, embed=embed, seed=1)


def test_the_builtin_model_proposes_ten_templates_of_two_placements(
    proposed: tuple[Proposal, ...],
) -> None:
    check(proposed, SENTIMENT, SENTIMENT_WORDS)
    assert len(proposed) >= 10
    assert {one.source for one in proposed} == {"after", "before"}


def test_placements_take_turns_each_best_first(proposed: tuple[Proposal, ...]) -> None:
    for source in ("after", "before"):
        scores = [one.score for one in proposed if one.source == source]
        assert scores == sorted(scores, reverse=True)
    assert {one.source for one in proposed[:2]} == {"after", "before"}


def test_proposed_templates_read_as_sentences(proposed: tuple[Proposal, ...]) -> None:
    for one in proposed:
        beside = one.text.replace("{text}", "").strip()
        assert beside[-1] in ".,:;!?-"
        words = beside.lstrip(".,:;!?- ")
        assert beside[0] in ",-;" or words.startswith("{mask}") or words[0].isupper()


def test_every_tokenizer_family_gives_valid_templates(
    tiny: Any, reviews: tuple[Example, ...], embed: Any
) -> None:
    found = propose_templates(tiny, reviews, SENTIMENT, SENTIMENT_WORDS, embed=embed, seed=1)
    check(found, SENTIMENT, SENTIMENT_WORDS)
    assert len(found) >= 10
    assert {one.source for one in found} == {"after", "before"}


def test_pairs_are_filled_between_and_behind(
    tiny: Any, pairs: tuple[Example, ...], embed: Any
) -> None:
    found = propose_templates(tiny, pairs, ENTAILMENT, ENTAILMENT_WORDS, embed=embed, seed=1)
    check(found, ENTAILMENT, ENTAILMENT_WORDS)
    assert {one.source for one in found} == {"between", "after"}


def test_the_same_seed_gives_the_same_templates(
    tiny: Any, reviews: tuple[Example, ...], embed: Any
) -> None:
    runs = [
        propose_templates(tiny, reviews, SENTIMENT, SENTIMENT_WORDS, embed=embed, seed=7)
        for _ in "ab"
    ]
    assert runs[0] == runs[1]
    other = propose_templates(tiny, reviews[::-1], SENTIMENT, SENTIMENT_WORDS, embed=embed, seed=8)
    assert other != runs[0]


def test_words_of_several_tokens_are_scored(
    tiny: Any, reviews: tuple[Example, ...], embed: Any
) -> None:
    unusual = Verbalizer((("negative", ("terrible", "badbad")), ("positive", ("great",))))
    found = propose_templates(tiny, reviews, SENTIMENT, unusual, count=4, embed=embed, seed=1)
    assert len(found) == 4
    check(found, SENTIMENT, unusual)


def one_by_one(backbone: Any, rows: Any) -> Any:
    """`read_masks` with every row alone in its batch."""
    for place, row in enumerate(rows):
        for _, log_probs in TOGETHER(backbone, [row]):
            yield [place], log_probs


def test_they_do_not_depend_on_the_batch_size(
    tiny: Any, reviews: tuple[Example, ...], embed: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: dict[str, Any] = {"embed": embed, "count": 6, "seed": 1}
    found = propose_templates(tiny, reviews, SENTIMENT, SENTIMENT_WORDS, **given)
    for module in (base, infill):
        monkeypatch.setattr(module, "read_masks", one_by_one)
    again = propose_templates(tiny, reviews, SENTIMENT, SENTIMENT_WORDS, **given)
    assert [one.text for one in again] == [one.text for one in found]
    assert [one.score for one in again] == pytest.approx([one.score for one in found], abs=1e-4)


def test_many_are_found_where_many_are_asked_for(
    tiny: Any, reviews: tuple[Example, ...], embed: Any
) -> None:
    """Wider beams fill what broken and equal templates leave."""
    found = propose_templates(
        tiny, reviews[::4], SENTIMENT, SENTIMENT_WORDS, embed=embed, count=100, seed=1
    )
    check(found, SENTIMENT, SENTIMENT_WORDS)
    assert len(found) == 100


def test_labels_of_digits_serve(tiny: Any, reviews: tuple[Example, ...], embed: Any) -> None:
    numbered = tuple(
        dataclasses.replace(row, label=str(int(row.label == "positive"))) for row in reviews
    )
    words = Verbalizer((("0", ("terrible",)), ("1", ("great",))))
    found = propose_templates(
        tiny, numbered, Task("single", ("0", "1")), words, count=4, embed=embed, seed=1
    )
    assert len(found) == 4


def test_it_returns_what_there_is_when_time_is_up(
    builtin: Any, reviews: tuple[Example, ...], embed: Any
) -> None:
    start = time.monotonic()
    found = propose_templates(
        builtin, reviews, SENTIMENT, SENTIMENT_WORDS, embed=embed, seed=1, seconds=0.0
    )
    assert time.monotonic() - start < 5
    assert 1 <= len(found) < 16
    check(found, SENTIMENT, SENTIMENT_WORDS)


class Scripted:
    """A language model of three words that answers a row by what stands before its mask."""

    device = "cpu"
    logits = ((2.0, 0.0, 0.0), (0.0, 3.0, 0.0))

    def batch(self, rows: list[Encoded]) -> ModelInputs:
        return collate(rows, 0)

    def vocabulary_log_probs(self, inputs: ModelInputs) -> Any:
        import torch

        answers = torch.tensor(self.logits).log_softmax(-1)  # [2, V]
        return answers[inputs.input_ids[:, 0]][:, None]


def test_one_step_averages_log_probabilities() -> None:
    """The paper's sum over examples, not the reference's softmax of mean logits."""
    rows = [Encoded((first, 9), (0, 0), (1,)) for first in (0, 1)]
    backbone: Any = Scripted()
    means = mean_log_probs(backbone, rows, [Filling((None,), 0.0)])
    assert means[0, 0].tolist() == pytest.approx([-1.66723, -1.16723, -2.66723], abs=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sst2", "cr", "trec", "ag_news", "subj", "rte", "cb"])
def test_benchmark_sets_get_ten_templates_of_two_placements(
    name: str, builtin: Any, few_shot: Callable[[str], tuple[tuple[Example, ...], Task]], embed: Any
) -> None:
    examples, task = few_shot(name)
    verbalizer = manual_words(task.labels, task.kind)[0]
    found = propose_templates(builtin, examples, task, verbalizer, embed=embed, seed=1)
    check(found, task, verbalizer)
    assert len(found) >= 10
    assert len({one.source for one in found}) >= 2
