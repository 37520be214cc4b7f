"""Prompted learners: scores by definition, calibration, training, and answers read only once."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch

from autoprompt.data.task import Example, Task
from autoprompt.learners.answers import Answers
from autoprompt.learners.base import LearnerError, log_softmax
from autoprompt.learners.build import CandidateError, build
from autoprompt.learners.workshop import Workshop
from autoprompt.models.masked import load_masked
from autoprompt.text.template import TemplateError, parse, render
from autoprompt.text.verbalizer import Verbalizer, VerbalizerError, WordIds, check_words
from search_spaces.candidate import Candidate

ROWS = [Example(t, label="positive") for t in ("a great story", "good film !", "very moving")]
ROWS += [Example(t, label="negative") for t in ("a terrible story", "bad film !", "very dull")]
TASK = Task("single", ("negative", "positive"))
WORDS = Verbalizer((("negative", ("terrible", "bad")), ("positive", ("great",))))
MULTI = Verbalizer((("negative", ("dullish",)), ("positive", ("great", "good"))))
ZERO_SHOT = Candidate(
    {
        "method": "zero_shot",
        "template": "{text} It was {mask}.",
        "words": WORDS.to_json(),
        "trainable": "none",
        "calibration": "none",
    }
)
TUNED = ZERO_SHOT.replace(
    method="hard", trainable="all", learning_rate=3e-3, steps=30, batch_size=4, weight_decay=0.01
)


def model_logits(workshop: Workshop, text: str, masks: int = 1) -> torch.Tensor:
    """The model's own logits at the masks, [masks, V]."""
    backbone: Any = load_masked(workshop.model, device="cpu", precision="fp32")
    row = backbone.encode(render(parse(ZERO_SHOT["template"]), text), masks)
    with torch.no_grad():
        logits = backbone._model(input_ids=torch.tensor([row.ids])).logits[0]
    return logits[list(row.masks)]


def test_single_tokens_average_raw_logits(workshop: Workshop) -> None:
    learner = build(ZERO_SHOT, TASK, workshop)
    learner.fit(ROWS, seed=0)
    found = learner.scores(ROWS)
    assert found.shape == (6, 2)
    assert found.dtype == numpy.float64
    numpy.testing.assert_allclose(numpy.exp(found).sum(axis=1), 1.0)
    ids = check_words(WORDS, workshop.backbone.tokenizer).ids
    for row, scores in zip(ROWS, found, strict=True):
        logits = model_logits(workshop, row.text)[0]
        negative = (logits[ids[0][0][0]] + logits[ids[0][1][0]]) / 2
        expected = torch.stack([negative, logits[ids[1][0][0]]]).double().log_softmax(0)
        numpy.testing.assert_allclose(scores, expected.numpy(), atol=1e-5)


def test_one_long_word_scores_all_classes_over_the_vocabulary(workshop: Workshop) -> None:
    ids = check_words(MULTI, workshop.backbone.tokenizer)
    assert ids.lengths[0] == 1
    assert ids.lengths[-1] > 1
    learner = build(ZERO_SHOT.replace(words=MULTI.to_json()), TASK, workshop)
    learner.fit(ROWS, seed=0)
    for row, scores in zip(ROWS, learner.scores(ROWS), strict=True):
        sums = []
        for words in ids.ids:
            per_word = []
            for word in words:
                log_probs = model_logits(workshop, row.text, len(word)).log_softmax(-1)
                per_word.append(sum(log_probs[n, token] for n, token in enumerate(word)))
            sums.append(torch.stack(per_word).mean())  # type: ignore[arg-type]
        expected = torch.stack(sums).double().log_softmax(0)
        numpy.testing.assert_allclose(scores, expected.numpy(), atol=1e-4)


def test_reference_case_of_word_means() -> None:
    """hard-prompt conformance case 11: logits [9, 1, 2, 5, 7], a = {1, 3}, b = {2} give [3, 2]."""

    class Fixed:
        def word_logits(self, states: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
            return torch.tensor([[9.0, 1.0, 2.0, 5.0, 7.0]])[:, ids]

    answers = Answers(WordIds((((1,), (3,)), ((2,),))), "cpu")
    found = answers.scores(Fixed(), {1: torch.zeros(1, 1, 1)})  # type: ignore[arg-type]
    assert found.tolist() == [[3.0, 2.0]]


def test_prior_divides_out_the_mean_answer(workshop: Workshop) -> None:
    plain = build(ZERO_SHOT, TASK, workshop)
    plain.fit(ROWS, seed=0)
    calibrated = build(ZERO_SHOT.replace(calibration="prior"), TASK, workshop)
    calibrated.fit(ROWS, seed=0)
    probabilities = numpy.exp(plain.scores(ROWS))
    weighed = probabilities / probabilities.mean(axis=0)
    expected = weighed / weighed.sum(axis=1, keepdims=True)
    numpy.testing.assert_allclose(numpy.exp(calibrated.scores(ROWS)), expected, rtol=1e-6)


def test_prior_does_not_see_labels(workshop: Workshop) -> None:
    turned = [Example(e.text, label=ROWS[-1 - n].label) for n, e in enumerate(ROWS)]
    candidate = ZERO_SHOT.replace(calibration="prior")
    one, two = build(candidate, TASK, workshop), build(candidate, TASK, workshop)
    one.fit(ROWS, seed=0)
    two.fit(turned, seed=1)
    numpy.testing.assert_array_equal(one.scores(ROWS), two.scores(ROWS))


@pytest.mark.parametrize(("words", "steps"), [(WORDS, 30), (MULTI, 90)])
def test_tuning_learns_the_training_rows(workshop: Workshop, words: Verbalizer, steps: int) -> None:
    learner = build(TUNED.replace(words=words.to_json(), steps=steps), TASK, workshop)
    learner.fit(ROWS, seed=0)
    assert learner.scores(ROWS).argmax(axis=1).tolist() == TASK.label_ids(ROWS)


def test_a_fit_repeats_exactly_whatever_came_before(workshop: Workshop) -> None:
    def fitted(seed: int) -> numpy.ndarray:
        learner = build(TUNED, TASK, workshop)
        learner.fit(ROWS, seed=seed)
        return learner.scores(ROWS)

    first = fitted(0)
    other = fitted(1)
    assert numpy.abs(first - other).max() > 1e-4
    numpy.testing.assert_array_equal(fitted(0), first)


def test_zero_shot_after_tuning_is_as_before_it(workshop: Workshop) -> None:
    fresh = [Example("it was okay")]
    learner = build(ZERO_SHOT, TASK, workshop)
    learner.fit(ROWS, seed=0)
    before = learner.scores(fresh)
    for remembered in (True, False):
        build(TUNED, TASK, workshop).fit(ROWS, seed=0)
        if not remembered:
            workshop._answers.clear()
        numpy.testing.assert_allclose(learner.scores(fresh), before, atol=1e-6)


def test_weights_taken_by_another_fit_are_an_error_not_a_wrong_answer(workshop: Workshop) -> None:
    first = build(TUNED, TASK, workshop)
    first.fit(ROWS, seed=0)
    build(TUNED, TASK, workshop).fit(ROWS, seed=1)
    with pytest.raises(LearnerError, match="another was fitted"):
        first.scores(ROWS)


def test_a_deadline_leaves_the_pretrained_model_behind(workshop: Workshop) -> None:
    learner = build(TUNED, TASK, workshop)
    with pytest.raises(TimeoutError):
        learner.fit(ROWS, seed=0, deadline=time.monotonic() - 1)
    assert workshop.backbone.weights.changes() == {}


def test_divergence_names_the_learning_rate(workshop: Workshop) -> None:
    learner = build(TUNED.replace(learning_rate=1e30), TASK, workshop)
    with pytest.raises(LearnerError, match=r"learning_rate: 1e\+30"):
        learner.fit(ROWS, seed=0)
    assert workshop.backbone.weights.changes() == {}


def test_one_forward_serves_every_fold_calibration_and_verbalizer(workshop: Workshop) -> None:
    workshop.labelled = tuple(ROWS)
    first = build(ZERO_SHOT, TASK, workshop)
    first.fit(ROWS[:4], seed=0)
    first.scores(ROWS[:2])
    assert first.tokens > 0  # all labelled rows were read at once
    swapped = Verbalizer((("negative", ("dull",)), ("positive", ("moving", "brave"))))
    for values in ({"calibration": "prior"}, {"words": swapped.to_json()}):
        learner = build(ZERO_SHOT.replace(**values), TASK, workshop)
        learner.fit(ROWS[2:], seed=1)
        learner.scores(ROWS)
        assert learner.tokens == 0
    other = build(ZERO_SHOT.replace(template="{mask}: {text}"), TASK, workshop)
    other.scores(ROWS)
    assert other.tokens > 0


def test_many_labelled_rows_are_read_as_they_are_asked_for(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And each once: what is kept grows with them."""
    monkeypatch.setattr("autoprompt.learners.workshop.READ_AHEAD", 4)
    monkeypatch.setattr("autoprompt.learners.workshop.CACHED_ANSWERS", 2)
    workshop.labelled = tuple(ROWS)
    learner = build(ZERO_SHOT, TASK, workshop)
    learner.fit(ROWS, seed=0)
    assert learner.tokens == 0
    learner.scores(ROWS[:2])
    two = learner.tokens
    learner.scores(ROWS)
    everything = learner.tokens
    assert 0 < two < everything
    learner.scores(ROWS[::-1])
    assert learner.tokens == everything


def test_pairs_and_one_sided_separators(tiny_checkpoint: Callable[..., Path]) -> None:
    task = Task("pair", ("no", "yes"))
    words = Verbalizer((("no", ("no",)), ("yes", ("yes",)))).to_json()
    rows = [Example("a good film", "it was good", "yes"), Example("a bad film", "good", "no")]
    for family in ("bert", "roberta"):
        workshop = Workshop(task, str(tiny_checkpoint(family)), "cpu", "fp32", rows)
        for template in ("{text}?{sep}{mask}, {text_b}", "{text}? {mask}, {text_b|lower_first}"):
            learner = build(ZERO_SHOT.replace(template=template, words=words), task, workshop)
            learner.fit(rows, seed=0)
            assert learner.scores(rows).shape == (2, 2)


def test_long_texts_keep_mask_and_answer(workshop: Workshop) -> None:
    learner = build(ZERO_SHOT, TASK, workshop)
    long = Example("very " * 5000 + "good")
    assert numpy.isfinite(learner.scores([long, ROWS[0]])).all()
    encoded = workshop.backbone.encode(render(parse(ZERO_SHOT["template"]), long.text))
    assert len(encoded.ids) == workshop.backbone.max_length == 64
    assert encoded.ids[encoded.masks[0]] == workshop.backbone.tokenizer.mask_token_id


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"template": "{text} It was."}, TemplateError, "mask"),
        ({"words": '{"negative":["xyzzy?\u2603"],"positive":["great"]}'}, VerbalizerError, "unk"),
        ({"words": '{"bad":["bad"],"good":["good"]}'}, CandidateError, "words: labels bad, good"),
        ({"trainable": "some"}, CandidateError, "trainable: 'some'"),
        ({"calibration": "full"}, CandidateError, "calibration: 'full'"),
        ({"method": "magic"}, CandidateError, "method: 'magic'"),
        ({"trainable": "all"}, CandidateError, "learning_rate"),
    ],
)
def test_candidates_that_cannot_be_built(
    workshop: Workshop, changes: dict[str, str], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        build(ZERO_SHOT.replace(**changes), TASK, workshop)


def test_refuse_reads_single_tokens_only(tiny_checkpoint: Callable[..., Path]) -> None:
    folder = str(tiny_checkpoint("bert"))
    strict = Workshop(TASK, folder, "cpu", "fp32", ROWS, multi_token="refuse")
    with pytest.raises(VerbalizerError, match="dullish"):
        build(ZERO_SHOT.replace(words=MULTI.to_json()), TASK, strict)


@pytest.mark.parametrize("shown", [{}, {"demonstrations": 1, "demonstration_samples": 2}])
def test_a_learned_prompts_prior_is_taken_once(workshop: Workshop, shown: dict[str, int]) -> None:
    """Of its own answers, not of answers that a prior was divided out of already."""
    plain = ZERO_SHOT.replace(
        method="prompt_tuning",
        trainable="prompt",
        prompt_length=2,
        prompt_position="front",
        prompt_init="vocabulary",
        prompt_learning_rate=1e-2,
        prompt_steps=3,
        batch_size=4,
        **shown,
    )
    found = []
    for candidate in (plain, plain.replace(calibration="prior")):
        learner = build(candidate, TASK, workshop)
        learner.fit(ROWS, seed=0)
        found.append(learner.scores(ROWS))
    prior = numpy.log(numpy.exp(found[0]).mean(axis=0))
    assert abs(prior[0] - prior[1]) > 1e-3
    numpy.testing.assert_allclose(log_softmax(found[0] - prior), found[1], atol=1e-5)


def test_a_decoder_may_start_with_a_token_that_no_row_has(
    tiny_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    folder = shutil.copytree(tiny_checkpoint("bart"), tmp_path / "model")
    for name in ("config.json", "generation_config.json"):
        described = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps(described | {"decoder_start_token_id": 3}))
    workshop = Workshop(TASK, str(folder), "cpu", "fp32", ROWS)
    learner = build(TUNED.replace(steps=1), TASK, workshop)
    learner.fit(ROWS, seed=0)
    assert numpy.isfinite(learner.scores(ROWS)).all()
