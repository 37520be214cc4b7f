"""PET: the planted task, what it may see, and what a killed fit leaves behind."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import planted_language
import pytest
import torch

from autoprompt.data.task import Example
from autoprompt.learners.base import LearnerError
from autoprompt.learners.build import CandidateError, build
from autoprompt.learners.bundle import load_bundle, save_bundle
from autoprompt.learners.pet import Pet, PetSettings
from autoprompt.learners.prompted import Prompted
from autoprompt.learners.training import Settings
from autoprompt.learners.workshop import Workshop
from autoprompt.models.load import load_model
from autoprompt.text.template import parse
from autoprompt.text.verbalizer import Verbalizer, check_words
from search_spaces.candidate import Candidate

TASK = planted_language.TASK
#: The planted model reads the word at place 5: behind one word before the text the fourth of it,
#: behind two the third, behind none or three a word that says nothing.
USEFUL = ("a {text} it was {mask} .", "a the {text} it was {mask} .")
USELESS = ("{text} it was {mask} .", "a the a {text} it was {mask} .")
STRONG = {"great": 1, "moving": 1, "terrible": -1, "boring": -1}
WEAK = {"brave": 1, "good": 1, "dull": -1, "bad": -1}
WORDS = Verbalizer((("negative", ("terrible",)), ("positive", ("great",))))


@pytest.fixture(scope="module")
def reader(tiny_checkpoint: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that reads one place and answers as strongly as the word there is good or bad."""
    folder = tmp_path_factory.mktemp("reader")
    planted_language.save_model(tiny_checkpoint, folder)
    backbone: Any = load_model(str(folder), device="cpu", precision="fp32")
    model, ids = backbone._model, backbone.tokenizer.get_vocab()
    words = model.bert.embeddings.word_embeddings.weight
    with torch.no_grad():
        kind, plain = words[ids["great"]].clone(), words[ids["story"]].clone()
        for word, sign in WEAK.items():
            words[ids[word]] = 0.4 * sign * kind + 0.92 * plain
        for word in planted_language.PULLS:
            words[ids[word]] = plain
        attention = model.bert.encoder.layer[0].attention
        attention.self.query.weight *= 5.0  # nothing of the other places
        # the answer is what is read there and no more, until training says otherwise
        attention.output.dense.weight[:, planted_language.SIZE // 2] = 0.0
        model.cls.predictions.bias.zero_()
    model.save_pretrained(folder)
    return folder


def texts(count: int, seed: int) -> list[Example]:
    """Labelled by the two adjectives together: a strong one outweighs a weak one. Whoever reads
    one of them alone is right on five of six texts."""
    rng = random.Random(seed)
    found: list[Example] = []
    while len(found) < count:
        first, second = (rng.choice([*STRONG, *WEAK]) for _ in range(2))
        pull = sum(2 * STRONG.get(word, 0) + WEAK.get(word, 0) for word in (first, second))
        label = "positive" if pull > 0 else "negative"
        if pull and (len(found) % 2 == 0) == (pull > 0):
            noun = rng.choice(planted_language.NOUNS)
            found.append(Example(f"the {noun} {first} {second} !", label=label))
    return found


def settings(**changes: Any) -> PetSettings:
    values = {
        "training": Settings(1e-4, steps=4, batch_size=8),
        "distillation": Settings(3e-3, steps=100, batch_size=16),
        "auxiliary_weight": 0.0,
        "repetitions": 1,
        "generations": 1,
        "temperature": 2.0,
        "reduction": "wmean",
    }
    return PetSettings(**(values | changes))


def accuracy(learner: Any, rows: list[Example]) -> float:
    return float((learner.scores(rows).argmax(axis=1) == TASK.label_ids(rows)).mean())


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("generations", [1, 2])
def test_weighs_patterns_and_beats_each(
    seed: int, generations: int, reader: Path, tmp_path: Path
) -> None:
    """Two useful and two useless patterns, three seeds of three."""
    rows, unlabeled, fresh = texts(24, seed), texts(300, 100 + seed), texts(200, 200 + seed)
    bare = [Example(row.text) for row in unlabeled]
    workshop = Workshop(TASK, str(reader), "cpu", "fp32", rows, unlabeled=bare)
    words = check_words(WORDS, workshop.backbone.tokenizer)
    patterns = [parse(text) for text in (*USEFUL, *USELESS)]
    values = settings(generations=generations)
    pet = Pet(TASK, workshop, patterns, words, values, name="planted")
    pet.fit(rows, seed=seed)
    right = pet.save(tmp_path)["pattern_accuracies"]
    assert min(right[:2]) > max(right[2:]) + 0.1, right
    distilled = accuracy(pet, fresh)
    singles = []
    for pattern in patterns:
        single = Prompted(TASK, workshop, pattern, words, training=values.training, tuned="all")
        single.fit(rows, seed=seed)
        singles.append(accuracy(single, fresh))
    assert distilled > max(singles) + 0.03, (distilled, singles)


CANDIDATE = Candidate(
    {
        "method": "pet",
        "patterns": '["{text} it was {mask} .", "{mask} : {text}"]',
        "words": WORDS.to_json(),
        "trainable": "all",
        "calibration": "none",
        "learning_rate": 1e-3,
        "steps": 2,
        "batch_size": 4,
        "weight_decay": 0.0,
        "auxiliary_weight": 1e-4,
        "repetitions": 2,
        "generations": 2,
        "distillation_steps": 5,
        "temperature": 2.0,
        "reduction": "wmean",
    }
)


def made(model: Path, unlabeled: list[Example], scratch: Path | None = None) -> Workshop:
    return Workshop(
        TASK, str(model), "cpu", "fp32", texts(12, 0), unlabeled=unlabeled, scratch=scratch
    )


def test_the_same_seed_gives_the_same_classifier_whatever_the_labels_of_unlabelled_texts(
    tiny_model: Path,
) -> None:
    """A label column beside the unlabelled texts is never read."""
    rows, unlabeled = texts(12, 0), texts(30, 1)
    found = []
    for labels in (["positive"] * 30, ["negative"] * 30):
        labelled = [Example(e.text, label=label) for e, label in zip(unlabeled, labels)]
        learner = build(CANDIDATE, TASK, made(tiny_model, labelled))
        learner.fit(rows, seed=3)
        found.append(learner.scores(rows))
    numpy.testing.assert_array_equal(*found)
    assert learner.tokens > 0
    learner.fit(rows, seed=4)
    assert not numpy.array_equal(learner.scores(rows), found[0])


def test_texts_of_rows_to_be_scored_teach_nothing(tiny_model: Path) -> None:
    """Unlabelled texts that equal held-out rows, case and marks aside, are left out."""
    every = [
        Example(text, label=label)
        for text, label in (
            ("the film great good !", "positive"),
            ("the film dull bad !", "negative"),
            ("the plot brave good !", "positive"),
            ("the plot bad bad !", "negative"),
        )
    ]
    held_out = [Example("The plot: BRAVE, good."), Example("the plot bad bad")]
    others = [Example("the film great good !"), Example("an actor")]
    workshop = Workshop(TASK, str(tiny_model), "cpu", "fp32", every, unlabeled=[*held_out, *others])
    pet = build(CANDIDATE, TASK, workshop)
    assert isinstance(pet, Pet)
    assert {text.text for text in pet.drawn_texts(every[:2], 0)} == {e.text for e in others}
    # in the final training no row is held out
    assert {text.text for text in pet.drawn_texts(every, 0)} == {
        e.text for e in (*others, *held_out)
    }
    nothing = build(
        CANDIDATE,
        TASK,
        Workshop(TASK, str(tiny_model), "cpu", "fp32", every, unlabeled=held_out),
    )
    with pytest.raises(LearnerError, match="--unlabeled"):
        nothing.fit(every[:2], seed=0)


def test_models_of_a_killed_fit_are_not_trained_again(tiny_model: Path, tmp_path: Path) -> None:
    rows, unlabeled = texts(12, 0), [Example(row.text) for row in texts(30, 1)]
    whole = build(CANDIDATE, TASK, made(tiny_model, unlabeled))
    whole.fit(rows, seed=0)
    scratch = tmp_path / "work"
    first = made(tiny_model, unlabeled, scratch)
    build(CANDIDATE, TASK, first).fit(rows, seed=0)
    files = sorted(path for path in scratch.rglob("*") if path.is_file())
    assert [path.name for path in files] == [
        f"g{g}-p{p}-r{r}.safetensors" for g in range(2) for p in range(2) for r in range(2)
    ]
    # as a process leaves it that died in the second generation: the last models are not there,
    # one file is cut short, of one a number is another
    for path in files[6:]:
        path.unlink()
    files[5].write_bytes(files[5].read_bytes()[:-3])
    damaged = bytearray(files[1].read_bytes())
    damaged[-1] ^= 1
    files[1].write_bytes(damaged)
    second = made(tiny_model, unlabeled, scratch)
    again = build(CANDIDATE, TASK, second)
    again.fit(rows, seed=0)
    numpy.testing.assert_array_equal(again.scores(rows), whole.scores(rows))
    assert again.tokens < 0.8 * whole.tokens
    # other rows, another seed or another candidate find nothing of it
    for candidate, some, seed in (
        (CANDIDATE, rows[:8], 0),
        (CANDIDATE, rows, 1),
        (CANDIDATE.replace(steps=3), rows, 0),
    ):
        other = build(candidate, TASK, second)
        other.fit(some, seed=seed)
        alone = build(candidate, TASK, made(tiny_model, unlabeled))
        alone.fit(some, seed=seed)
        numpy.testing.assert_array_equal(other.scores(rows), alone.scores(rows))
    second.scratch.sweep()
    assert not scratch.exists()


def test_a_disk_that_refuses_costs_the_work_alone(tiny_model: Path, tmp_path: Path) -> None:
    rows, unlabeled = texts(12, 0), [Example(row.text) for row in texts(30, 1)]
    (tmp_path / "work").write_text("a file where the folder should be")
    learner = build(CANDIDATE, TASK, made(tiny_model, unlabeled, tmp_path / "work"))
    learner.fit(rows, seed=0)
    assert learner.scores(rows).shape == (12, 2)


@pytest.mark.parametrize("family", ["gpt2", "t5"])
def test_other_kinds_of_models_without_the_auxiliary_loss(
    family: str, tiny_checkpoint: Callable[..., Path]
) -> None:
    unlabeled = [Example(row.text) for row in texts(20, 1)]
    patterns = '["{text} it was {mask}", "the film : {text} a {mask}"]'
    candidate = CANDIDATE.replace(auxiliary_weight=0.0, patterns=patterns)
    learner = build(candidate, TASK, made(tiny_checkpoint(family), unlabeled))
    learner.fit(texts(8, 0), seed=0)
    assert numpy.isfinite(learner.scores(texts(8, 5))).all()


def test_a_bundle_is_the_classifier_and_says_what_made_it(tiny_model: Path, tmp_path: Path) -> None:
    workshop = made(tiny_model, [Example(row.text) for row in texts(30, 1)])
    learner = build(CANDIDATE, TASK, workshop)
    learner.fit(texts(12, 0), seed=0)
    expected = learner.scores(texts(6, 7))
    folder = tmp_path / "bundle"
    save_bundle(learner, CANDIDATE, TASK, folder, metrics={}, provenance={}, workshop=workshop)
    found = load_bundle(folder, "cpu").scores(texts(6, 7))
    numpy.testing.assert_allclose(found, expected, atol=1e-5)
    card = (folder / "README.md").read_text()
    for words in ("Method `pet`", "{text} it was {mask} .", "{mask} : {text}", "before training"):
        assert words in card


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"patterns": "[]"}, "patterns: .*no list of templates"),
        ({"patterns": "{text} {mask}"}, "patterns: .*no list of templates"),
        ({"patterns": '["{text} {mask}", "{text} {mask}"]'}, "there twice"),
        ({"auxiliary_weight": 1.0}, "auxiliary_weight: 1.0 is no share"),
        ({"reduction": "median"}, "choose one of wmean, mean"),
        ({"trainable": "bias"}, "trainable: 'bias'"),
    ],
)
def test_wrong_values_are_named(changes: dict[str, Any], message: str, tiny_model: Path) -> None:
    with pytest.raises(CandidateError, match=message):
        build(CANDIDATE.replace(**changes), TASK, made(tiny_model, []))
