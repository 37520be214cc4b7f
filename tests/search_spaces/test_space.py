"""Spaces: conditions, merging, overriding, and what a real sampler makes of them."""

from __future__ import annotations

import subprocess
import sys
import warnings

import optuna
import pytest
from optuna.samplers import RandomSampler, TPESampler
from optuna.search_space import _GroupDecomposedSearchSpace
from optuna.trial import FixedTrial

from search_spaces import presets
from search_spaces.dimension import Choice, Integer, Real, SpaceError
from search_spaces.space import Space

optuna.logging.set_verbosity(optuna.logging.WARNING)


def filled(*names: str) -> Space:
    space = Space.merge(*(presets.load(name) for name in names))
    for name, letter in (("template", "t"), ("words", "v")):
        if name in space.open:
            space = space.fill(name, [f"{letter}{i:03}" for i in range(12)])
    return space


def seen(space: Space, trials: int = 60) -> list:
    """Candidates as a real random sampler gives them."""
    study = optuna.create_study(sampler=RandomSampler(seed=0))
    found: list = []

    def objective(trial) -> float:
        found.append(space.suggest(trial))
        return 0.0

    study.optimize(objective, n_trials=trials)
    return found


def test_search_spaces_needs_no_sampler_and_no_model():
    code = (
        "import sys; from search_spaces import presets; presets.load('full'); "
        "print([m for m in ('optuna', 'torch', 'numpy', 'autoprompt', 'storage') "
        "if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_joint_space_of_quick_holds_more_than_method():
    """TPE with group=True models together what every trial has: method, template and words."""
    space = filled("quick")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        sampler = TPESampler(multivariate=True, group=True, seed=1, n_startup_trials=5)
    study = optuna.create_study(sampler=sampler, direction="maximize")

    def objective(trial):
        candidate = space.suggest(trial)
        return len(candidate["template"]) + 0.1 * (candidate["method"] == "hard") + trial.number

    study.optimize(objective, n_trials=20)
    assert {trial.params["method"] for trial in study.trials} == {
        "zero_shot",
        "soft_verbalizer",
        "hard",
    }
    groups = _GroupDecomposedSearchSpace().calculate(study).search_spaces
    joint = next(group for group in groups if "method" in group)
    assert {"method", "template", "words"} <= set(joint)
    assert {"learning_rate", "steps"} in [set(group) for group in groups]
    everywhere = optuna.search_space.intersection_search_space(study.trials)
    assert set(everywhere) == {"method", "template", "words"}


def test_each_method_gets_its_own_values():
    for candidate in seen(filled("quick", "fine_tuning", "tfidf")):
        method = candidate["method"]
        assert ("template" in candidate) == (method in ("zero_shot", "soft_verbalizer", "hard"))
        assert ("shrinkage" in candidate) == (method == "soft_verbalizer")
        assert ("learning_rate" in candidate) == (method in ("hard", "fine_tuning"))
        assert candidate.get("trainable") == {
            "zero_shot": "none",
            "soft_verbalizer": "verbalizer",
            "hard": "all",
            "fine_tuning": "all",
        }.get(method)
        if method == "hard":
            assert candidate["calibration"] == "none"
            assert candidate["batch_size"] == 8
            assert 2e-5 <= candidate["learning_rate"] <= 3e-4
    methods = {c["method"] for c in seen(filled("quick", "fine_tuning", "tfidf"))}
    assert methods == {"zero_shot", "soft_verbalizer", "hard", "fine_tuning", "tfidf", "tfidf_nb"}


def test_fixed_dimensions_are_never_asked():
    asked: list[str] = []

    class Recorder(FixedTrial):
        def suggest_categorical(self, name, choices):
            asked.append(name)
            return super().suggest_categorical(name, choices)

    trial = Recorder({"template": "t003", "words": "v001", "calibration": "none"})
    candidate = filled("zero_shot").suggest(trial)
    assert asked == ["template", "words", "calibration"]
    assert candidate.to_dict() == {
        "method": "zero_shot",
        "template": "t003",
        "words": "v001",
        "trainable": "none",
        "calibration": "none",
    }


def test_enqueued_params_give_the_same_candidate():
    space = filled("quick", "fine_tuning")
    study = optuna.create_study(sampler=RandomSampler(seed=3))
    wanted = seen(space, 30)
    for candidate in wanted:
        study.enqueue_trial(space.params(candidate.values))
    got: list = []
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in wanted:
            got.append(space.suggest(study.ask()))
    assert got == wanted
    for candidate in wanted:
        assert space.suggest(FixedTrial(space.params(candidate.values))) == candidate


def test_params_drop_what_is_fixed_or_inactive():
    space = filled("quick")
    values = {"method": "zero_shot", "template": "t001", "learning_rate": 1e-4, "trainable": "none"}
    assert space.params(values) == {"method": "zero_shot", "template": "t001"}


@pytest.mark.parametrize(
    ("values", "parts"),
    [
        ({"template": "t999"}, ("template", "'t999'", "outside")),
        ({"method": "hard", "steps": 41}, ("steps", "41", "15, 30, 60")),
        ({"method": "hard", "learning_rate": 1.0}, ("learning_rate", "1.0", "from 2e-05")),
        ({"method": "hard", "batch_size": 16}, ("batch_size", "16", "outside", "8")),
        ({"learning_rate": 1e-4}, ("learning_rate", "depends on method", "give method")),
        ({"templat": "t001"}, ("did you mean 'template'",)),
    ],
)
def test_params_refuse_what_the_space_does_not_hold(values, parts):
    with pytest.raises(SpaceError) as caught:
        filled("quick").params(values)
    assert all(part in str(caught.value) for part in parts), str(caught.value)


def test_override_narrows_and_keeps_conditions():
    space = filled("quick").override("steps", {"low": 10, "high": 90})
    assert Integer("steps", 10, 90, when=(("method", ("hard",)),)) in space.dimensions
    space = filled("quick").override("learning_rate", 1e-4)
    assert {c.get("learning_rate") for c in seen(space)} == {None, 1e-4}
    hard = filled("quick").override("method", "hard")
    assert hard.methods == ("hard",)
    assert {c["trainable"] for c in seen(hard, 5)} == {"all"}
    assert all(not d.when for d in hard.dimensions)
    plain = filled("quick").override("calibration", "none")
    assert {c.get("calibration") for c in seen(plain) if c["method"] != "soft_verbalizer"} == {
        "none"
    }


@pytest.mark.parametrize(
    ("name", "spec", "parts"),
    [
        ("method", "hrad", ("method", "'hrad'", "did you mean 'hard'")),
        ("trainable", "all", ("trainable", "follows from method")),
        ("prompt_length", 5, ("prompt_length", "this space (zero_shot", "leave it out")),
        ("prompt_lenght", 5, ("'prompt_lenght'", "known: method")),
        ("steps", 2.5, ("steps", "2.5", "whole number")),
        ("template", "t999", ("template", "'t999'")),
    ],
)
def test_override_errors(name, spec, parts):
    with pytest.raises(SpaceError) as caught:
        filled("quick").override(name, spec)
    assert all(part in str(caught.value) for part in parts), str(caught.value)


def test_open_dimensions_must_be_filled_once():
    space = presets.load("quick")
    assert space.open == ("template", "words")
    with pytest.raises(SpaceError, match="template"):
        space.check()
    with pytest.raises(SpaceError, match="template"):
        space.suggest(FixedTrial({}))
    space = filled("quick")
    space.check()
    with pytest.raises(SpaceError, match="has its options"):
        space.fill("template", ["t001"])
    with pytest.raises(SpaceError, match="at least one"):
        presets.load("quick").fill("words", [])


def test_active_follows_fixed_values():
    space = filled("quick")
    assert "steps" in space.active({"method": "hard"})
    assert "steps" not in space.active({"method": "zero_shot"})
    assert "steps" in filled("hard").active({})


def test_one_searched_dimension_may_depend_on_different_things():
    """The learning rate of hard prompts always; of P-tuning where the model is tuned too."""
    space = filled("hard", "p_tuning")
    for candidate in seen(space, 60):
        tuned = candidate["method"] == "hard" or candidate["trainable"] == "all"
        assert ("learning_rate" in candidate) == tuned
    fixed = space.override("learning_rate", 1e-4)
    assert {c.get("learning_rate") for c in seen(fixed, 60)} == {None, 1e-4}
    hard = {"method": "hard", "learning_rate": 1e-4}
    assert space.params(hard) == hard


def test_merge_lets_the_later_definition_win():
    mine = Space((Choice("method", ("hard",)), Real("learning_rate", 1e-6, 1e-5, log=True)))
    space = Space.merge(presets.load("quick"), mine)
    when = (("method", ("hard",)),)
    assert Real("learning_rate", 1e-6, 1e-5, True, when) in space.dimensions
    assert [d.name for d in space.dimensions].count("learning_rate") == 1
    assert Space.merge(presets.load("quick"), presets.load("hard")) == presets.load("quick")
    other = Space((Choice("method", ("fine_tuning",)), Choice("steps", (5, 6))))
    both = Space.merge(presets.load("hard"), other)
    assert Choice("steps", (5, 6)) in both.dimensions  # for both methods, so unconditional


def test_a_dimension_may_be_searched_alike_under_other_conditions():
    """Template and words belong to one read-out of p_tuning_v2, and to all of prefix_tuning."""
    space = filled("quick", "prefix_tuning", "p_tuning_v2")
    head = {"method": "p_tuning_v2", "readout": "head"}
    assert not {"template", "words", "calibration"} & set(space.active(head))
    for values in (
        head | {"readout": "verbalizer"},
        {"method": "prefix_tuning"},
        {"method": "hard"},
    ):
        assert {"template", "words"} <= set(space.active(values))
    assert "readout" not in space.active({"method": "prefix_tuning"})
    narrowed = space.override("template", "t003")
    assert [d.fixed for d in narrowed.dimensions if d.name == "template"] == [True, True]
    assert Space.from_dict(space.to_dict()) == space
    alone = presets.load("p_tuning_v2").override("readout", "head")
    assert not {"template", "words"} & set(alone.names)
    assert presets.load("p_tuning_v2").override("readout", "verbalizer").open == (
        "template",
        "words",
    )


@pytest.mark.parametrize("names", [("quick",), ("quick", "fine_tuning"), ("tfidf", "embeddings")])
def test_dict_and_digest(names):
    space = filled(*names)
    again = Space.from_dict(space.to_dict())
    assert again == space
    assert again.digest == space.digest
    assert filled("hard").digest != filled("zero_shot").digest
    assert space.digest != space.override("method", space.methods[0]).digest


def test_malformed_spaces_are_refused():
    with pytest.raises(SpaceError, match="no choice here"):
        Space((Choice("steps", (1, 2), (("method", ("hard",)),)),))
    with pytest.raises(SpaceError, match="defined twice"):
        Space((Choice("steps", (1, 2)), Choice("steps", (3,))))
    when = (("method", ("hard",)),)
    other = (("method", ("zero_shot",)),)
    method = Choice("method", ("hard", "zero_shot"))
    with pytest.raises(SpaceError, match="both searched"):
        Space((method, Choice("steps", (1, 2), when), Choice("steps", (3, 4), other)))
    with pytest.raises(SpaceError, match="circle"):
        Space(
            (
                Choice("trainable", ("none", "all"), (("calibration", ("none",)),)),
                Choice("calibration", ("none", "prior"), (("trainable", ("all",)),)),
            )
        )
