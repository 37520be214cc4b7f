"""A candidate's words to a learner: the only place that maps names to objects. Fits nothing."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

from autoprompt import plugins
from autoprompt.data.task import Task
from autoprompt.learners.base import CandidateError as CandidateError
from autoprompt.learners.base import Learner
from autoprompt.learners.members import WEIGHTINGS, members_of
from autoprompt.learners.workshop import Workshop
from autoprompt.text import manual
from autoprompt.text.demonstrations import ORDERS, POLICIES, Showing
from autoprompt.text.placement import slots
from autoprompt.text.template import Template, TemplateError, check_template, parse
from autoprompt.text.verbalizer import Verbalizer, WordIds, check_words
from search_spaces.candidate import Candidate

if TYPE_CHECKING:
    from autoprompt.learners.training import Settings
    from autoprompt.models.backbone import Backbone
    from autoprompt.prompts.base import Method
    from autoprompt.prompts.key_values import PrefixMethod

LEARNED_PROMPTS = plugins.names("autoprompt.prompts")
TRIGGERS = "autoprompt_triggers"
PROMPT_METHODS = (
    "zero_shot",
    "soft_verbalizer",
    "hard",
    "in_context",
    "lm_bff",
    TRIGGERS,
    *LEARNED_PROMPTS,
)
#: Methods whose learner is taught with texts without labels.
TAUGHT_UNLABELED = ("pet",)
TRAINABLE = ("none", "verbalizer", "prompt", "bias", "all")
READOUTS = ("verbalizer", "head")
CALIBRATIONS = ("none", "prior", "contextual")
BASELINES = ("majority", "tfidf", "tfidf_nb", "embeddings", "zero_shot", "fine_tuning")
# Fine-tuning's fixed settings as a baseline, chosen on mr, subj and snips at 16 rows per class.
FINE_TUNING = {
    "learning_rate": 2e-4,
    "steps": 60,
    "batch_size": 8,
    "weight_decay": 0.0,
}


def needs_model(candidate: Candidate) -> bool:
    """Whether the candidate's answers come from the run's language model."""
    own = candidate["method"] in (*PROMPT_METHODS, *TAUGHT_UNLABELED, "fine_tuning")
    return own or any(map(needs_model, members_of(candidate)))


def needs_encoder(candidate: Candidate) -> bool:
    """Whether the candidate's answers come from the package's sentence encoder."""
    return candidate["method"] == "embeddings"


def compares(candidate: Candidate) -> bool:
    """Whether demonstrations are chosen by the package's sentence encoder."""
    shown = showing(candidate)
    return (shown is not None and shown.compares) or any(map(compares, members_of(candidate)))


def baselines(
    kind: str, labels: Sequence[str], *, onwards: bool = False, words: str = ""
) -> tuple[Candidate, ...]:
    """The candidates every study is compared with: fixed beforehand, never searched.

    onwards: for a causal model, whose template ends with the mask. words: for zero-shot in place of
    the usual ones for such labels, which a vocabulary may lack.
    """
    words = words or manual.words(labels, kind)[0].to_json()
    values: dict[str, dict[str, str | int | float]] = {
        "fine_tuning": dict(FINE_TUNING),
        "zero_shot": {
            "template": manual.default_template(kind, onwards=onwards),
            "words": words,
            "trainable": "none",
            "calibration": "prior",
        },
    }
    return tuple(Candidate({"method": name} | values.get(name, {})) for name in BASELINES)


def build(candidate: Candidate, task: Task, workshop: Workshop) -> Learner:
    """The learner a candidate describes, not fitted yet.

    `TemplateError`, `VerbalizerError`, `ModelError` or `CandidateError` where it cannot be.
    """
    method = str(_value(candidate, "method"))
    showing(candidate)  # refused where it would do nothing
    if reads_head(candidate):
        return _headed(candidate, task, workshop)
    if method == TRIGGERS:
        return _triggered(candidate, task, workshop)
    if method in PROMPT_METHODS:
        return _prompted(candidate, task, workshop)
    if method == "pet":
        return _pet(candidate, task, workshop)
    if method == "fine_tuning":
        from autoprompt.learners.head import Head

        return Head(task, workshop, _settings(candidate))
    if method == "embeddings":
        from autoprompt.learners.embeddings import Embeddings

        return Embeddings(task, workshop)
    if method in ("tfidf", "tfidf_nb"):
        from autoprompt.learners.tfidf import TfIdf

        return TfIdf(task, "regression" if method == "tfidf" else "bayes")
    if method == "ensemble":
        return _ensemble(candidate, task, workshop)
    if method == "majority":
        from autoprompt.learners.majority import Majority

        return Majority(task)
    known = ", ".join(dict.fromkeys((*PROMPT_METHODS, *TAUGHT_UNLABELED, "ensemble", *BASELINES)))
    raise CandidateError(f"method: {method!r} is unknown; choose one of {known}")


def showing(candidate: Candidate) -> Showing | None:
    """How the candidate shows demonstrations, None where it shows none."""
    count = int(candidate.get("demonstrations", 0))
    if not count:
        return None
    method = _value(candidate, "method")
    trainable = candidate.get("trainable", "none")
    if method not in PROMPT_METHODS or trainable == "verbalizer" or reads_head(candidate):
        raise CandidateError(
            f"demonstrations: {count} with method {method!r}, which shows none; set 0, or use "
            "in_context or lm_bff"
        )
    policy = str(candidate.get("demonstration_policy", "random"))
    order = str(candidate.get("demonstration_order", "label"))
    for name, value, known in (
        ("demonstration_policy", policy, POLICIES),
        ("demonstration_order", order, ORDERS),
    ):
        if value not in known:
            raise CandidateError(f"{name}: {value!r} is unknown; choose one of {', '.join(known)}")
    return Showing(count, policy, order, int(candidate.get("demonstration_samples", 1)))


def reads_head(candidate: Candidate) -> bool:
    """Whether a learned prompt's answers come from a classification head, not from label words;
    `CandidateError` for a readout that is neither."""
    readout = candidate.get("readout", "verbalizer")
    if readout not in READOUTS:
        raise CandidateError(
            f"readout: {readout!r} is unknown; choose one of {', '.join(READOUTS)}"
        )
    return readout == "head"


def learned_prompt(candidate: Candidate) -> Method | None:
    """The candidate's prompt method with its settings read, None where it learns no prompt."""
    name = str(_value(candidate, "method"))
    if name not in LEARNED_PROMPTS:
        return None
    return plugins.find("autoprompt.prompts", name).read(candidate.values)


def prefix_of(candidate: Candidate) -> PrefixMethod:
    """The prefix of a candidate with a head; `CandidateError` for one that cannot have it."""
    from autoprompt.prompts.key_values import PrefixMethod

    method = learned_prompt(candidate)
    if not isinstance(method, PrefixMethod):
        raise CandidateError(
            f"readout: 'head' needs a prefix in every layer, which {candidate['method']!r} has "
            "not; set "
            "'verbalizer', or use p_tuning_v2 or prefix_tuning"
        )
    return method


def _headed(candidate: Candidate, task: Task, workshop: Workshop) -> Learner:
    from autoprompt.learners.head import Head

    method = prefix_of(candidate)
    if (trainable := candidate.get("trainable", "none")) != "prompt":
        raise CandidateError(
            f"trainable: {trainable!r} with readout 'head', which leaves the model frozen; set "
            "'prompt', or use fine_tuning"
        )
    for name, idle in (
        ("template", None),
        ("words", None),
        ("calibration", "none"),
        ("loss", "cross_entropy"),
    ):
        if (value := candidate.get(name)) not in (None, idle):
            raise CandidateError(
                f"{name}: {value!r}, but readout 'head' reads a plain text and no words; leave it "
                "out, or set readout = 'verbalizer'"
            )
    return Head(task, workshop, _settings(candidate), method)


def _ensemble(candidate: Candidate, task: Task, workshop: Workshop) -> Learner:
    from autoprompt.learners.ensemble import Ensemble

    weighting = str(_value(candidate, "weighting"))
    if weighting not in WEIGHTINGS:
        raise CandidateError(
            f"weighting: {weighting!r} is unknown; choose one of {', '.join(WEIGHTINGS)}"
        )
    members = members_of(candidate)
    if not members:
        raise CandidateError("members: an 'ensemble' candidate needs them; give two or more")
    return Ensemble(
        task,
        [partial(build, member, task, workshop) for member in members],
        weighting,
        workshop.backbone.weights if needs_model(candidate) else None,
    )


def _triggered(candidate: Candidate, task: Task, workshop: Workshop) -> Learner:
    """A zero-shot prompt whose trigger words fitting looks for."""
    from autoprompt.learners.triggered import Triggered
    from autoprompt.proposals.trigger_slots import POSITIONS, place_trigger
    from autoprompt.proposals.triggers import Effort

    if (trainable := candidate.get("trainable", "none")) != "none":
        raise CandidateError(
            f"trainable: {trainable!r} with {TRIGGERS}, which trains nothing; set 'none', and tune "
            "the template it finds with hard"
        )
    position = str(candidate.get("trigger_position", "before_cue"))
    if position not in POSITIONS:
        raise CandidateError(
            f"trigger_position: {position!r} is unknown; choose one of {', '.join(POSITIONS)}"
        )
    template, words = _asked(candidate, task, workshop)
    slotted = place_trigger(template, position, int(candidate.get("trigger_length", 0)))
    asked = candidate.replace(method="zero_shot")
    return Triggered(
        task,
        workshop,
        slotted,
        words,
        effort=Effort(
            steps=int(_value(candidate, "trigger_steps")),
            candidates=int(_value(candidate, "trigger_candidates")),
        ),
        calibrated=candidate.get("calibration", "none") == "prior",
        ask=lambda found: build(asked.replace(template=str(found)), task, workshop),
    )


def _asked(candidate: Candidate, task: Task, workshop: Workshop) -> tuple[Template, WordIds]:
    """The candidate's template and the ids of its words."""
    template = parse(str(_value(candidate, "template")))
    check_template(template, task.kind)
    return template, _words(candidate, task, workshop)


def _prompted(candidate: Candidate, task: Task, workshop: Workshop) -> Learner:
    template, words = _asked(candidate, task, workshop)
    trainable = candidate.get("trainable", "none")
    if trainable not in TRAINABLE:
        raise CandidateError(
            f"trainable: {trainable!r} is unknown; choose one of {', '.join(TRAINABLE)}"
        )
    calibrate = _calibration(candidate, task, workshop, template)
    if trainable == "verbalizer":
        from autoprompt.learners.soft_verbalizer import SoftVerbalizer

        shrinkage = float(_value(candidate, "shrinkage"))
        return calibrate(SoftVerbalizer(task, workshop, template, words, shrinkage=shrinkage))
    from autoprompt.learners.auxiliary import Auxiliary
    from autoprompt.learners.demonstrations import Demonstrations
    from autoprompt.learners.prompted import Prompted

    method = None
    if candidate["method"] in LEARNED_PROMPTS:
        if trainable not in ("prompt", "bias", "all"):
            raise CandidateError(
                f"trainable: {trainable!r} would not train the prompt of {candidate['method']}; "
                "set 'prompt' (the model frozen), 'bias' or 'all'"
            )
        method = learned_prompt(candidate)
    elif trainable == "prompt":
        raise CandidateError(
            f"trainable: 'prompt' needs a method that learns one, not {candidate['method']!r}; "
            f"choose one of {', '.join(LEARNED_PROMPTS)}"
        )
    elif slots(template):
        raise TemplateError(
            f"template: {str(template)!r} has {{soft:N}}, which {candidate['method']!r} does not "
            f"train; use words instead, or one of {', '.join(LEARNED_PROMPTS)}"
        )
    training = None if trainable == "none" else _settings(candidate)
    tuned = str(trainable) if trainable in ("bias", "all") else ""
    shown = showing(candidate)
    weight = _auxiliary_weight(candidate, workshop.backbone)
    return calibrate(
        Prompted(
            task,
            workshop,
            template,
            words,
            training=training,
            tuned=tuned,
            method=method,
            demonstrations=(
                None
                if shown is None
                else Demonstrations(
                    shown, task, workshop, template, Verbalizer.from_json(str(candidate["words"]))
                )
            ),
            auxiliary=Auxiliary(weight, workshop.unlabeled_beside) if weight else None,
        )
    )


def _calibration(
    candidate: Candidate, task: Task, workshop: Workshop, template: Template
) -> Callable[[Learner], Learner]:
    """What a candidate puts around its learner."""
    name = candidate.get("calibration", "none")
    if name not in CALIBRATIONS:
        raise CandidateError(
            f"calibration: {name!r} is unknown; choose one of {', '.join(CALIBRATIONS)}"
        )
    if name == "none":
        return lambda learner: learner
    from autoprompt.learners.calibration import Calibrated, content_free

    if name == "prior":
        return lambda learner: Calibrated(
            learner, lambda rows: [*rows, *workshop.unlabeled_beside(rows)]
        )
    backbone = workshop.backbone
    texts = content_free(template, backbone.tokenizer, task.kind, onwards=backbone.reads_onwards)
    if not texts:
        raise CandidateError(
            f"calibration: 'contextual' has no input for the template {str(template)!r}, which "
            "has no words of its own, with this vocabulary; give it words, or use prior"
        )
    return lambda learner: Calibrated(learner, lambda rows: texts)


def _words(candidate: Candidate, task: Task, workshop: Workshop) -> WordIds:
    verbalizer = Verbalizer.from_json(str(_value(candidate, "words")))
    if verbalizer.labels != task.labels:
        raise CandidateError(
            f"words: labels {', '.join(verbalizer.labels)} are not the task's "
            f"{', '.join(task.labels)}; give words for exactly these, in this order"
        )
    backbone = workshop.backbone
    multi_token = "refuse" if backbone.one_token else workshop.multi_token
    return check_words(verbalizer, backbone.tokenizer, multi_token)


def _pet(candidate: Candidate, task: Task, workshop: Workshop) -> Learner:
    from dataclasses import replace

    from autoprompt.learners.distillation import REDUCTIONS
    from autoprompt.learners.pet import Pet, PetSettings

    patterns = tuple(parse(text) for text in read_patterns(str(_value(candidate, "patterns"))))
    for pattern in patterns:
        check_template(pattern, task.kind)
        if slots(pattern):
            raise TemplateError(
                f"patterns: {str(pattern)!r} has {{soft:N}}, which 'pet' does not train; use "
                "words instead"
            )
    for name, idle in (("trainable", "all"), ("calibration", "none")):
        if (value := candidate.get(name, idle)) != idle:
            raise CandidateError(f"{name}: {value!r}, but 'pet' knows {idle!r} alone; set that")
    reduction = str(candidate.get("reduction", "wmean"))
    if reduction not in REDUCTIONS:
        raise CandidateError(
            f"reduction: {reduction!r} is unknown; choose one of {', '.join(REDUCTIONS)}"
        )
    training = _settings(candidate)
    settings = PetSettings(
        training=training,
        distillation=replace(
            training,
            steps=int(_value(candidate, "distillation_steps")),
            learning_rate=float(
                candidate.get("distillation_learning_rate", training.learning_rate)
            ),
        ),
        auxiliary_weight=_auxiliary_weight(candidate, workshop.backbone),
        repetitions=int(candidate.get("repetitions", 1)),
        generations=int(candidate.get("generations", 1)),
        temperature=float(candidate.get("temperature", 2.0)),
        reduction=reduction,
    )
    words = _words(candidate, task, workshop)
    return Pet(task, workshop, patterns, words, settings, name=candidate.digest)


def read_patterns(text: str) -> tuple[str, ...]:
    """The templates of a `patterns` value, a JSON list of distinct texts; `CandidateError`."""
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    if not isinstance(found, list) or not found or not all(isinstance(t, str) for t in found):
        raise CandidateError(
            f'patterns: {text!r} is no list of templates; give for example ["{{text}} {{mask}}"]'
        )
    twice = [one for place, one in enumerate(found) if one in found[:place]]
    if twice:
        raise CandidateError(f"patterns: {twice[0]!r} is there twice; give it once")
    return tuple(found)


def _auxiliary_weight(candidate: Candidate, backbone: Backbone) -> float:
    """The share of the masked-word loss; `CandidateError` where it cannot be."""
    weight = float(candidate.get("auxiliary_weight", 0.0))
    if not 0.0 <= weight < 1.0:
        raise CandidateError(f"auxiliary_weight: {weight} is no share; give 0 to below 1")
    if weight and (problem := no_auxiliary(backbone)):
        raise CandidateError(f"auxiliary_weight: {weight}, but {problem}; set 0")
    if weight and (trainable := candidate.get("trainable", "all")) != "all":
        raise CandidateError(
            f"auxiliary_weight: {weight} with trainable {trainable!r}, but it keeps tuned weights "
            "near the language; set 0, or trainable = 'all'"
        )
    return weight


def no_auxiliary(backbone: Backbone) -> str:
    """Why the model cannot learn hidden words beside labels, '' where it can."""
    from autoprompt.learners.auxiliary import fills_gaps

    return "" if fills_gaps(backbone) else f"{backbone.name!r} is no masked language model"


def _settings(candidate: Candidate) -> Settings:
    from autoprompt.learners.answers import LOSSES
    from autoprompt.learners.training import Settings

    learned = candidate["method"] in LEARNED_PROMPTS
    tuned = not learned or candidate.get("trainable") in ("bias", "all")
    # A network moves its vectors by all its weights at once: it bears a tenth of their rate.
    direct = candidate.get("reparametrisation", "direct") == "direct"
    rate = "prompt_learning_rate" if direct else "network_learning_rate"
    loss = str(candidate.get("loss", LOSSES[0]))
    if loss not in LOSSES:
        raise CandidateError(f"loss: {loss!r} is unknown; choose one of {', '.join(LOSSES)}")
    return Settings(
        learning_rate=float(_value(candidate, "learning_rate")) if tuned else 0.0,
        prompt_learning_rate=float(_value(candidate, rate)) if learned else 0.0,
        prompt_rate=rate,
        steps=int(_value(candidate, "prompt_steps" if learned else "steps")),
        batch_size=int(_value(candidate, "batch_size")),
        weight_decay=float(candidate.get("weight_decay", 0.0)),
        loss=loss,
    )


def _value(candidate: Candidate, name: str) -> str | int | float:
    value = candidate.get(name)
    if value is None:
        raise CandidateError(
            f"{name}: a {candidate.get('method', 'nameless')!r} candidate needs it"
        )
    return value
