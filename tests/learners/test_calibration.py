"""Calibration: what each kind divides out, and that an answer is its text's own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import pytest

from autoprompt.data.task import Example, Task
from autoprompt.learners.base import log_softmax
from autoprompt.learners.build import CALIBRATIONS, CandidateError, build
from autoprompt.learners.calibration import Calibrated, content_free, log_mean
from autoprompt.learners.stack import ride_alone
from autoprompt.learners.workshop import Workshop
from autoprompt.text.template import parse
from autoprompt.text.verbalizer import Verbalizer
from search_spaces.candidate import Candidate

WORDS = Verbalizer((("bad", ("terrible",)), ("good", ("great",)))).to_json()
SINGLE = Task("single", ("bad", "good"))
PAIR = Task("pair", ("bad", "good"))
ROWS = [Example(t, label="good") for t in ("a great story", "good film !", "very moving")]
ROWS += [Example(t, label="bad") for t in ("a terrible story", "bad film !", "very dull")]
PAIRS = [Example(e.text, ROWS[-1 - n].text, e.label) for n, e in enumerate(ROWS)]
KINDS = {
    "bert": ("masked", "{text} It was {mask}."),
    "gpt2": ("causal", "{text} It was {mask}"),
    "llama": ("causal", "{text} It was {mask}"),
    "t5": ("seq2seq", "{text} It was {mask}."),
    "bart": ("seq2seq", "{text} It was {mask}."),
}
EMPTY = Example("")


def zero_shot(template: str, calibration: str = "none") -> Candidate:
    values = {"template": template, "words": WORDS, "calibration": calibration}
    return Candidate({"method": "zero_shot", "trainable": "none"} | values)


def fitted(candidate: Candidate, task: Task, workshop: Workshop, rows: Any) -> Any:
    learner = build(candidate, task, workshop)
    learner.fit(rows, seed=0)
    return learner


def divided(plain: numpy.ndarray, over: numpy.ndarray) -> numpy.ndarray:
    """Probabilities over a mean of probabilities, by the formula as it is written."""
    weighed = numpy.exp(plain) / numpy.exp(over).mean(axis=0)
    return weighed / weighed.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("family", KINDS)
@pytest.mark.parametrize("task", [SINGLE, PAIR], ids=["single", "pair"])
def test_contextual_divides_by_the_answer_to_no_content(
    tiny_checkpoint: Callable[..., Path], family: str, task: Task
) -> None:
    """Zhao et al. 2021, for every kind of model and for pairs."""
    workshop = Workshop(task, str(tiny_checkpoint(family)), "cpu", "fp32")
    rows, template = ROWS, KINDS[family][1]
    if task.kind == "pair":
        rows, template = PAIRS, template.replace("{text}", "{text} ? {text_b}")
    plain = fitted(zero_shot(template), task, workshop, rows)
    backbone = workshop.backbone
    inputs = content_free(
        parse(template), backbone.tokenizer, task.kind, onwards=backbone.reads_onwards
    )
    assert {e.text for e in inputs} == {e.text_b or e.text for e in inputs}
    assert "" in {e.text for e in inputs}
    expected = divided(plain.scores(rows), plain.scores(inputs))
    assert numpy.abs(expected - numpy.exp(plain.scores(rows))).max() > 0.01
    candidate = zero_shot(template, "contextual")
    for training in (rows, rows[:2]):  # the training texts have no part in it
        found = fitted(candidate, task, workshop, training).scores(rows)
        numpy.testing.assert_allclose(numpy.exp(found), expected, rtol=1e-6)


@pytest.mark.parametrize("calibration", CALIBRATIONS)
def test_an_answer_depends_on_its_text_alone(workshop: Workshop, calibration: str) -> None:
    """On no other text of the batch, nor on its place there; and not after saving either."""
    template = "{text} It was {mask}."
    learner = fitted(zero_shot(template, calibration), SINGLE, workshop, ROWS)
    batch = [
        Example(t) for t in ("maybe a good plot", "dull", "the actor was brave , very brave !")
    ]
    together = learner.scores(batch)
    assert learner.scores(batch[::-1])[::-1] == pytest.approx(together, abs=1e-6)
    for text, row in zip(batch, together, strict=True):
        workshop._answers.clear()
        assert learner.scores([text])[0] == pytest.approx(row, abs=1e-6)
        assert learner.scores([text] * 5 + ROWS)[0] == pytest.approx(row, abs=1e-6)


@pytest.mark.parametrize("calibration", CALIBRATIONS)
def test_what_was_saved_answers_the_same(
    workshop: Workshop, tmp_path: Path, calibration: str
) -> None:
    candidate = zero_shot("{mask} : {text}", calibration)
    learner = fitted(candidate, SINGLE, workshop, ROWS)
    saved = learner.save(tmp_path)
    assert ("calibration_prior" in saved) == (calibration != "none")
    again = build(candidate, SINGLE, workshop)
    again.load(tmp_path, saved)
    numpy.testing.assert_allclose(again.scores(ROWS), learner.scores(ROWS), atol=1e-12)
    assert sum(saved.get("calibration_prior", [1.0])) == pytest.approx(1.0)


def test_unlabelled_texts_are_part_of_the_prior_alone(workshop: Workshop) -> None:
    workshop.unlabeled = (Example("a terrible terrible plot"), Example("dull , dull"))
    plain = fitted(zero_shot("{text} It was {mask}."), SINGLE, workshop, ROWS)
    expected = divided(plain.scores(ROWS), plain.scores([*ROWS, *workshop.unlabeled]))
    found = fitted(zero_shot("{text} It was {mask}.", "prior"), SINGLE, workshop, ROWS).scores(ROWS)
    numpy.testing.assert_allclose(numpy.exp(found), expected, rtol=1e-6)


def test_texts_of_rows_to_be_scored_are_not_in_the_prior(workshop: Workshop) -> None:
    """A held-out row's text without its label, case and marks aside, is read by no block."""
    workshop.labelled = tuple(ROWS)
    workshop.unlabeled = (Example("Good, film"), Example("dull , dull"))
    plain = fitted(zero_shot("{text} It was {mask}."), SINGLE, workshop, ROWS)
    training = [row for row in ROWS if row.text != "good film !"]
    expected = divided(plain.scores(ROWS), plain.scores([*training, workshop.unlabeled[1]]))
    found = fitted(zero_shot("{text} It was {mask}.", "prior"), SINGLE, workshop, training)
    numpy.testing.assert_allclose(numpy.exp(found.scores(ROWS)), expected, rtol=1e-6)


def test_unlabelled_texts_are_drawn_from_the_whole_file(tiny_model: Path) -> None:
    """A file is often sorted, by class or by date: its first texts stand for no others."""
    texts = [Example(f"{kind} {n}") for kind in ("bad", "good") for n in range(1000)]
    drawn = Workshop(SINGLE, str(tiny_model), unlabeled=texts).unlabeled_beside(ROWS)
    assert len(drawn) == 128
    assert 40 < sum(text.text.startswith("bad") for text in drawn) < 88
    assert Workshop(SINGLE, str(tiny_model), unlabeled=texts).unlabeled_beside(ROWS[:2]) == drawn


@pytest.mark.parametrize(
    "values",
    [
        {"method": "hard", "trainable": "all", "learning_rate": 1e-3, "steps": 4},
        {"method": "soft_verbalizer", "trainable": "verbalizer", "shrinkage": 0.3},
    ],
)
def test_what_was_trained_is_calibrated_after_it(
    workshop: Workshop, values: dict[str, Any]
) -> None:
    asked = zero_shot("{text} It was {mask}.").replace(batch_size=2, **values)
    plain = fitted(asked, SINGLE, workshop, ROWS)
    inputs = content_free(parse(asked["template"]), workshop.backbone.tokenizer, "single")
    expected = divided(plain.scores(ROWS), plain.scores(inputs))
    calibrated = fitted(asked.replace(calibration="contextual"), SINGLE, workshop, ROWS)
    numpy.testing.assert_allclose(numpy.exp(calibrated.scores(ROWS)), expected, rtol=1e-5)


@pytest.mark.parametrize("calibration", ["prior", "contextual"])
def test_a_fit_in_the_running_batch_is_calibrated_at_its_end(
    workshop: Workshop, calibration: str
) -> None:
    values = {"method": "prompt_tuning", "trainable": "prompt", "prompt_steps": 3, "batch_size": 2}
    values |= {"prompt_length": 2, "prompt_position": "front", "prompt_init": "vocabulary"}
    asked = zero_shot("{text} It was {mask}.", calibration).replace(
        prompt_learning_rate=1e-2, **values
    )
    alone, riding = fitted(asked, SINGLE, workshop, ROWS), build(asked, SINGLE, workshop)
    assert isinstance(riding, Calibrated)
    assert riding.rides
    ride_alone(riding.ride(ROWS, seed=0, deadline=None), workshop.backbone)
    numpy.testing.assert_allclose(riding.scores(ROWS), alone.scores(ROWS), atol=1e-9)
    untrained = build(zero_shot("{text} It was {mask}.", calibration), SINGLE, workshop)
    assert isinstance(untrained, Calibrated)
    assert not untrained.rides


def test_inputs_without_content_are_what_the_vocabulary_can_write() -> None:
    from transformers import BertTokenizer

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    names = [*special, "很", "好", "差", "，", "。"]
    chinese = BertTokenizer(vocab={name: number for number, name in enumerate(names)})
    latin = BertTokenizer(vocab={n: i for i, n in enumerate([*names, "n", "/", "a"])})
    spoken, silent = parse("{text}，很{mask}"), parse("{text}{mask}")
    assert content_free(spoken, chinese, "single") == [EMPTY]
    assert content_free(spoken, latin, "pair") == [Example("N/A", "N/A"), Example("", "")]
    assert content_free(silent, latin, "single") == [Example("N/A")]
    assert content_free(silent, chinese, "single") == []


@pytest.mark.parametrize("family", ["bert", "gpt2"])
def test_a_template_without_words_has_no_contextual_calibration_where_none_can_be_written(
    tiny_checkpoint: Callable[..., Path], family: str
) -> None:
    """A causal model does not read the words behind the mask: they do not count."""
    workshop = Workshop(SINGLE, str(tiny_checkpoint(family)), "cpu", "fp32")
    candidate = zero_shot("{text} {mask} !" if family == "gpt2" else "{text} {mask}", "contextual")
    if family == "gpt2":  # whose bytes can write anything
        learner = fitted(candidate, SINGLE, workshop, ROWS)
        assert numpy.isfinite(learner.scores(ROWS)).all()
    else:
        with pytest.raises(CandidateError, match="calibration: 'contextual' has no input"):
            build(candidate, SINGLE, workshop)


def test_a_label_that_is_never_likely_still_has_a_prior() -> None:
    """As with long label words, whose probabilities differ by hundreds of nats."""
    scores = log_softmax(numpy.array([[0.0, -300.0], [0.0, -302.0]]))
    found = log_softmax(scores - log_mean(scores))
    assert numpy.isfinite(found).all()
    assert found.argmax(axis=1).tolist() == [1, 0]


def test_texts_longer_than_the_model_and_numbers_as_labels(
    tiny_checkpoint: Callable[..., Path],
) -> None:
    task = Task("single", ("0", "1"))
    words = Verbalizer((("0", ("bad",)), ("1", ("good",)))).to_json()
    workshop = Workshop(task, str(tiny_checkpoint("bert")), "cpu", "fp32")
    rows = [Example("very " * 3000 + end, label=str(n)) for n, end in enumerate(("dull", "great"))]
    for calibration in CALIBRATIONS:
        candidate = zero_shot("{text} It was {mask}.", calibration).replace(words=words)
        found = fitted(candidate, task, workshop, rows).scores(rows)
        assert numpy.isfinite(found).all()
        numpy.testing.assert_allclose(numpy.exp(found).sum(axis=1), 1.0)
