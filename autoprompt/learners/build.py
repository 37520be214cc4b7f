"""A candidate's words to a learner: the only place that maps names to objects. Fits nothing."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from autoprompt import plugins
from autoprompt.data.task import Task
from autoprompt.learners.base import CandidateError as CandidateError
from autoprompt.learners.base import Learner
from autoprompt.learners.members import WEIGHTINGS, members_of
from autoprompt.learners.workshop import Workshop
from autoprompt.text import manual
from autoprompt.text.placement import slots
from autoprompt.text.template import TemplateError, check_template, parse
from autoprompt.text.verbalizer import Verbalizer, check_words
from search_spaces.candidate import Candidate

if TYPE_CHECKING:
    from autoprompt.learners.training import Settings
    from autoprompt.prompts.base import Method
    from autoprompt.prompts.key_values import PrefixMethod

LEARNED_PROMPTS = plugins.names("autoprompt.prompts")
PROMPT_METHODS = ("zero_shot", "soft_verbalizer", "hard", *LEARNED_PROMPTS)
TRAINABLE = ("none", "verbalizer", "prompt", "bias", "all")
READOUTS = ("verbalizer", "head")
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
    own = candidate["method"] in (*PROMPT_METHODS, "fine_tuning")
    return own or any(map(needs_model, members_of(candidate)))


def needs_encoder(candidate: Candidate) -> bool:
    """Whether the candidate's answers come from the package's sentence encoder."""
    return candidate["method"] == "embeddings"


def baselines(kind: str, labels: Sequence[str], *, onwards: bool = False) -> tuple[Candidate, ...]:
    """The candidates every study is compared with: fixed beforehand, never searched.

    onwards: for a causal model, whose template ends with the mask.
    """
    words = manual.words(labels)[0].to_json()
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
    if reads_head(candidate):
        return _headed(candidate, task, workshop)
    if method in PROMPT_METHODS:
        return _prompted(candidate, task, workshop)
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
    known = ", ".join(dict.fromkeys((*PROMPT_METHODS, "ensemble", *BASELINES)))
    raise CandidateError(f"method: {method!r} is unknown; choose one of {known}")


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
    for name, idle in (("template", None), ("words", None), ("calibration", "none")):
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


def _prompted(candidate: Candidate, task: Task, workshop: Workshop) -> Learner:
    template = parse(str(_value(candidate, "template")))
    check_template(template, task.kind)
    verbalizer = Verbalizer.from_json(str(_value(candidate, "words")))
    if verbalizer.labels != task.labels:
        raise CandidateError(
            f"words: labels {', '.join(verbalizer.labels)} are not the task's "
            f"{', '.join(task.labels)}; give words for exactly these, in this order"
        )
    backbone = workshop.backbone
    multi_token = "refuse" if backbone.one_token else workshop.multi_token
    words = check_words(verbalizer, backbone.tokenizer, multi_token)
    trainable = candidate.get("trainable", "none")
    if trainable not in TRAINABLE:
        raise CandidateError(
            f"trainable: {trainable!r} is unknown; choose one of {', '.join(TRAINABLE)}"
        )
    calibration = candidate.get("calibration", "none")
    if calibration not in ("none", "prior"):
        raise CandidateError(f"calibration: {calibration!r} is unknown; choose none or prior")
    if trainable == "verbalizer":
        from autoprompt.learners.soft_verbalizer import SoftVerbalizer

        shrinkage = float(_value(candidate, "shrinkage"))
        return SoftVerbalizer(task, workshop, template, words, shrinkage=shrinkage)
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
    return Prompted(
        task,
        workshop,
        template,
        words,
        training=training,
        prior=calibration == "prior",
        tuned=str(trainable) if trainable in ("bias", "all") else "",
        method=method,
    )


def _settings(candidate: Candidate) -> Settings:
    from autoprompt.learners.training import Settings

    learned = candidate["method"] in LEARNED_PROMPTS
    tuned = not learned or candidate.get("trainable") in ("bias", "all")
    # A network moves its vectors by all its weights at once: it bears a tenth of their rate.
    direct = candidate.get("reparametrisation", "direct") == "direct"
    rate = "prompt_learning_rate" if direct else "network_learning_rate"
    return Settings(
        learning_rate=float(_value(candidate, "learning_rate")) if tuned else 0.0,
        prompt_learning_rate=float(_value(candidate, rate)) if learned else 0.0,
        prompt_rate=rate,
        steps=int(_value(candidate, "prompt_steps" if learned else "steps")),
        batch_size=int(_value(candidate, "batch_size")),
        weight_decay=float(candidate.get("weight_decay", 0.0)),
    )


def _value(candidate: Candidate, name: str) -> str | int | float:
    value = candidate.get(name)
    if value is None:
        raise CandidateError(
            f"{name}: a {candidate.get('method', 'nameless')!r} candidate needs it"
        )
    return value
