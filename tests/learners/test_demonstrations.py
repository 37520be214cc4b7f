"""Prompted learners that show demonstrations: which rows, when, and that nothing leaks."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch

from autoprompt.data.task import Example, Task, content_key
from autoprompt.learners.base import DEMONSTRATIONS
from autoprompt.learners.build import CandidateError, build, compares
from autoprompt.learners.bundle import load_bundle, save_bundle
from autoprompt.learners.demonstrations import MOST_ROWS, Demonstrations
from autoprompt.learners.workshop import Workshop
from autoprompt.models.inputs import Encoded
from autoprompt.text.demonstrations import POLICIES, Showing
from autoprompt.text.template import parse
from autoprompt.text.verbalizer import Verbalizer
from search_spaces.candidate import Candidate

TASK = Task("single", ("negative", "positive"))
ROWS = [Example(t, label="positive") for t in ("a great story", "good film !", "very moving plot")]
ROWS += [Example(t, label="negative") for t in ("a terrible story", "bad film !", "a dull actor")]
QUERIES = [Example("the brave actor"), Example("a boring plot , truly"), Example("the film is")]
WORDS = Verbalizer((("negative", ("terrible", "bad")), ("positive", ("great",))))
IN_CONTEXT = Candidate(
    {
        "method": "in_context",
        "template": "{text} it was {mask} .",
        "words": WORDS.to_json(),
        "trainable": "none",
        "calibration": "none",
        "demonstrations": 1,
        "demonstration_policy": "random",
        "demonstration_order": "label",
        "demonstration_samples": 1,
    }
)
LM_BFF = IN_CONTEXT.replace(
    method="lm_bff", trainable="all", learning_rate=3e-3, steps=6, batch_size=4
)
TEMPLATE = parse(IN_CONTEXT["template"])


def shower(workshop: Workshop, showing: Showing, task: Task = TASK) -> Demonstrations:
    words = Verbalizer(tuple((label, (label,)) for label in task.labels))
    return Demonstrations(showing, task, workshop, TEMPLATE, words)


def texts(beside: tuple[Any, ...]) -> list[str]:
    """The texts that stand beside one query."""
    return [one.pieces[0].text for one in beside]


@pytest.mark.parametrize("policy", POLICIES)
def test_only_training_rows_are_shown_and_never_the_query(workshop: Workshop, policy: str) -> None:
    shown = shower(workshop, Showing(2, policy, samples=3))
    shown.fit(ROWS, seed=0)
    same = [Example("A great STORY!"), Example("bad film"), *QUERIES]  # the content of two rows
    label_of = {row.text: row.label for row in ROWS}
    for number, beside in enumerate(shown.of_queries(same)):
        query = same[number % len(same)]
        found = texts(beside)
        assert len(found) == len(set(found)) == 4  # two of every class, none twice
        assert content_key(query) not in {content_key(Example(text)) for text in found}
        assert [label_of[text] for text in found] == ["negative", "positive"] * 2
        assert [one.pieces[2].text for one in beside] == ["negative", "positive"] * 2
    for example, beside in zip(ROWS, shown.of_training(ROWS, seed=0), strict=True):
        assert example.text not in texts(beside)
        assert set(texts(beside)) < set(label_of)


@pytest.mark.parametrize("policy", ["random", "filter"])
def test_a_querys_demonstrations_depend_on_its_content_alone(
    workshop: Workshop, policy: str
) -> None:
    few = shower(workshop, Showing(1, policy, "random", samples=2))
    many = shower(workshop, Showing(1, policy, "random", samples=4))
    few.fit(ROWS, seed=0)
    many.fit(ROWS, seed=7)
    together = few.of_queries(QUERIES)
    backwards = few.of_queries(QUERIES[::-1])
    assert together[:3] == backwards[:3][::-1]
    assert together[3:] == [few.of_queries([one])[1] for one in QUERIES]
    assert many.of_queries(QUERIES)[:6] == together  # more samples keep the first
    assert len(set(map(tuple, map(texts, many.of_queries(QUERIES))))) > 3


def test_training_draws_anew_each_time_and_the_same_for_the_same_seed(workshop: Workshop) -> None:
    shown = shower(workshop, Showing(1))
    shown.fit(ROWS, seed=0)
    again = [ROWS[0]] * 30
    drawn = {tuple(texts(one)) for one in shown.of_training(again, seed=1)}
    assert len(drawn) == 6  # 3 of the other class with 2 of its own
    assert shown.of_training(again, 1) == shown.of_training(again, 1)
    assert shown.of_training(again, 1) != shown.of_training(again, 2)


def test_a_class_of_one_row_gives_its_label_away_to_no_training_query(workshop: Workshop) -> None:
    """Its own class would be the one that is missing: nothing is shown then. Prediction has all."""
    shown = shower(workshop, Showing(2))
    shown.fit([ROWS[0], ROWS[3], ROWS[4]], seed=0)
    beside = shown.of_training([ROWS[0], ROWS[3]], seed=0)
    assert texts(beside[0]) == []
    assert len(texts(beside[1])) == 2  # one round: the other class has no second row
    assert len(texts(shown.of_queries(QUERIES)[0])) == 2
    learner = build(LM_BFF, TASK, workshop)
    learner.fit([ROWS[0], ROWS[3]], seed=0)
    assert numpy.isfinite(learner.scores(QUERIES)).all()


def test_a_class_without_rows_is_not_shown_and_others_are(workshop: Workshop) -> None:
    task = Task("single", ("negative", "neutral", "positive"))
    shown = shower(workshop, Showing(1), task)
    shown.fit(ROWS, seed=0)
    assert len(texts(shown.of_queries(QUERIES)[0])) == 2


def test_large_data_are_shown_from_a_part(workshop: Workshop, tmp_path: Path) -> None:
    rows = [Example(f"film {n}", label=TASK.labels[n % 2]) for n in range(4 * MOST_ROWS)]
    shown = shower(workshop, Showing(1))
    shown.fit([*rows, *rows], seed=0)
    shown.save(tmp_path)
    kept = json.loads((tmp_path / DEMONSTRATIONS).read_text("utf-8"))
    assert len(kept) == 2 * MOST_ROWS
    assert len({row["text"] for row in kept}) == len(kept)


def test_scores_are_the_mean_over_samples(workshop: Workshop, monkeypatch: Any) -> None:
    """hard_prompts.md section 6, case 22: samples [1, 0] and [0, 3] give [.5, 1.5]."""
    candidate = IN_CONTEXT.replace(demonstration_samples=2)
    learner: Any = build(candidate, TASK, workshop)
    learner.fit(ROWS, seed=0)
    given = torch.tensor([[1.0, 0.0], [0.0, 3.0]])
    with monkeypatch.context() as patched:
        patched.setattr(learner._answers, "scores_in_chunks", lambda *_: given)
        found = learner.scores(QUERIES[:1])
    expected = torch.tensor([[0.5, 1.5]]).double().log_softmax(1).numpy()
    numpy.testing.assert_allclose(found, expected, atol=1e-6)
    # and of the model's own: sample by sample, every query once in each
    rows = learner._queries(QUERIES)[1]
    states, _ = workshop.pretrained_states(rows)
    scores = learner._answers.scores_in_chunks(workshop.backbone, {1: states})
    expected = scores.reshape(2, 3, 2).mean(0).double().log_softmax(1).numpy()
    numpy.testing.assert_allclose(learner.scores(QUERIES), expected, atol=1e-6)


def test_answers_in_hand_are_those_of_the_rows_shown(workshop: Workshop) -> None:
    """One workshop serves learners of other rows, words and orders: none gets another's answers."""
    first, other = build(IN_CONTEXT, TASK, workshop), build(IN_CONTEXT, TASK, workshop)
    first.fit(ROWS, seed=0)
    other.fit([replace(row, text=row.text + " !") for row in ROWS], seed=0)
    found = first.scores(QUERIES)
    assert not numpy.allclose(found, other.scores(QUERIES), atol=1e-4)
    read = first.tokens
    numpy.testing.assert_array_equal(first.scores(QUERIES), found)
    assert first.tokens == read  # nothing was read again
    alone = Workshop(TASK, workshop.model, "cpu", "fp32")
    fresh = build(IN_CONTEXT, TASK, alone)
    fresh.fit(ROWS, seed=0)
    numpy.testing.assert_allclose(fresh.scores(QUERIES), found, atol=1e-6)


@pytest.mark.parametrize("candidate", [IN_CONTEXT, LM_BFF])
def test_scores_do_not_depend_on_company_or_order(candidate: Candidate, workshop: Workshop) -> None:
    learner = build(candidate.replace(demonstration_samples=2), TASK, workshop)
    learner.fit(ROWS, seed=0)
    together = learner.scores(QUERIES)
    numpy.testing.assert_allclose(learner.scores(QUERIES[::-1])[::-1], together, atol=1e-5)
    for number, query in enumerate(QUERIES):
        numpy.testing.assert_allclose(learner.scores([query])[0], together[number], atol=1e-5)


def test_none_of_them_is_the_learner_without(workshop: Workshop) -> None:
    bare = {k: v for k, v in LM_BFF.values.items() if not k.startswith("demonstration")}
    found = []
    for values in (bare | {"method": "hard"}, bare | {"demonstrations": 0}):
        learner = build(Candidate(values), TASK, workshop)
        learner.fit(ROWS, seed=0)
        found.append(learner.scores(QUERIES))
    numpy.testing.assert_array_equal(*found)


def test_training_learns_the_rows_and_is_repeatable(workshop: Workshop) -> None:
    candidate = LM_BFF.replace(steps=100, learning_rate=1e-3, demonstration_samples=2)
    right = [TASK.labels.index(str(row.label)) for row in ROWS]
    found = []
    for _ in range(2):
        learner = build(candidate, TASK, workshop)
        learner.fit(ROWS, seed=0)
        found.append(learner.scores(ROWS))
    assert found[0].argmax(1).tolist() == right
    numpy.testing.assert_array_equal(*found)


def test_words_of_several_tokens(workshop: Workshop) -> None:
    words = Verbalizer((("negative", ("dullish", "bad")), ("positive", ("great",))))
    learner: Any = build(
        IN_CONTEXT.replace(words=words.to_json(), demonstration_samples=2), TASK, workshop
    )
    learner.fit(ROWS, seed=0)
    numpy.testing.assert_allclose(numpy.exp(learner.scores(QUERIES)).sum(axis=1), 1.0)
    rows = learner._queries(QUERIES)
    assert min(rows) == 1
    assert {len(row.masks) for row in rows[max(rows)]} == {max(rows)}


def test_half_a_character_and_no_character_at_all(workshop: Workshop, tmp_path: Path) -> None:
    rows = [*ROWS, Example("\ud800 film", label="positive"), Example("", label="negative")]
    chosen = IN_CONTEXT.replace(demonstration_policy="filter", demonstrations=4)
    learner = build(chosen, TASK, workshop)
    learner.fit(rows, seed=0)
    found = learner.scores(rows)
    learner.save(tmp_path)
    again = build(chosen, TASK, workshop)
    again.load(tmp_path, {})
    numpy.testing.assert_array_equal(again.scores(rows), found)


def test_texts_longer_than_the_model_push_demonstrations_out(workshop: Workshop) -> None:
    long = [replace(row, text=row.text + " moving" * 300) for row in ROWS]
    learner: Any = build(IN_CONTEXT.replace(demonstrations=2), TASK, workshop)
    learner.fit(long, seed=0)
    rows: list[Encoded] = learner._queries([long[0], QUERIES[0]])[1]
    longest = workshop.backbone.max_length
    assert [len(row.ids) for row in rows] == [longest, longest]
    mask = workshop.backbone.tokenizer.mask_token_id
    assert all(row.ids.count(mask) == 1 for row in rows)
    assert numpy.isfinite(learner.scores(long)).all()


@pytest.mark.parametrize("candidate", [IN_CONTEXT, LM_BFF])
def test_a_bundle_answers_the_same_in_a_clean_process(
    candidate: Candidate, workshop: Workshop, tmp_path: Path
) -> None:
    """`save_bundle` compares with a clean process itself; here with what is loaded too."""
    pair = Task("pair", TASK.labels)
    rows = [Example(row.text, f"{row.text} \u2028 it is\tso", row.label) for row in ROWS]
    shop = Workshop(pair, workshop.model, "cpu", "fp32", rows)
    chosen = candidate.replace(
        template="{text} {sep} {text_b} it was {mask} .",
        calibration="prior" if candidate is IN_CONTEXT else "none",
        demonstration_policy="filter",
        demonstration_order="nearest",
        demonstration_samples=2,
    )
    learner = build(chosen, pair, shop)
    learner.fit(rows, seed=0)
    folder = tmp_path / "bundle"
    given: dict[str, Any] = {"metrics": {}, "provenance": {}, "workshop": shop}
    save_bundle(learner, chosen, pair, folder, **given)
    queries = [Example(one.text, "the plot") for one in QUERIES]
    loaded = load_bundle(folder, "cpu")
    numpy.testing.assert_allclose(loaded.scores(queries), learner.scores(queries), atol=1e-5)
    prompt = folder / "prompt.toml"
    assert "[encoder]" in prompt.read_text("utf-8")
    assert "contains texts of the training rows" in (folder / "README.md").read_text("utf-8")


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"method": "soft_verbalizer", "trainable": "verbalizer"}, ("demonstrations", "set 0")),
        ({"method": "fine_tuning", "trainable": "all"}, ("demonstrations", "in_context")),
        ({"demonstration_policy": "near"}, ("demonstration_policy", "'near'", "nearest")),
        ({"demonstration_order": "last"}, ("demonstration_order", "'last'", "label")),
    ],
)
def test_what_shows_none_is_refused(
    changes: dict[str, Any], parts: tuple[str, ...], workshop: Workshop
) -> None:
    with pytest.raises(CandidateError) as caught:
        build(IN_CONTEXT.replace(**changes), TASK, workshop)
    for part in parts:
        assert part in str(caught.value)


def test_the_sentence_encoder_is_asked_only_where_it_is_needed(workshop: Workshop) -> None:
    assert not compares(IN_CONTEXT)
    assert not compares(IN_CONTEXT.replace(demonstrations=0, demonstration_policy="filter"))
    assert compares(IN_CONTEXT.replace(demonstration_policy="filter"))
    assert compares(IN_CONTEXT.replace(demonstration_order="nearest"))
    learner = build(IN_CONTEXT, TASK, workshop)
    learner.fit(ROWS, seed=0)
    learner.scores(QUERIES)
    assert "sentence_encoder" not in vars(workshop)


def test_texts_that_the_encoder_has_no_words_for_are_compared_by_the_model(
    tmp_path: Path, workshop: Workshop
) -> None:
    """Chinese beside an English encoder; the toy model reads it as one unknown word, letter by
    letter, so only that it is asked, and asked again by what was saved, can be seen."""
    nearest = Showing(1, "nearest", order="nearest")
    for rows, own in ((ROWS, False), ([replace(r, text="房间很好，早饭不错") for r in ROWS], True)):
        shown = shower(workshop, nearest)
        shown.fit(rows, seed=0)
        shown.of_queries(QUERIES)
        assert (shown._encoder is not workshop.sentence_encoder) is own
        shown.save(tmp_path)
        loaded = shower(workshop, nearest)
        loaded.load(
            tmp_path,
        )
        assert loaded.of_queries(QUERIES) == shown.of_queries(QUERIES)
        assert loaded._encoder is shown._encoder


@pytest.mark.parametrize("family", ["gpt2", "t5", "bart"])
def test_other_kinds_of_models(family: str, tiny_checkpoint: Callable[..., Path]) -> None:
    shop = Workshop(TASK, str(tiny_checkpoint(family)), "cpu", "fp32", ROWS, multi_token="refuse")
    words = Verbalizer((("negative", ("bad",)), ("positive", ("good",)))).to_json()
    for candidate in (IN_CONTEXT, LM_BFF):
        learner = build(candidate.replace(words=words, demonstration_samples=2), TASK, shop)
        learner.fit(ROWS, seed=0)
        assert numpy.isfinite(learner.scores(QUERIES)).all()
