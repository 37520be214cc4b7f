"""A language model asked through a template and read through label words. The core learner."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy
import torch
from torch.nn import functional

from autoprompt.data.task import Example, Task
from autoprompt.learners.answers import Answers
from autoprompt.learners.base import SOFT_PROMPT, WEIGHTS, LearnerError, log_softmax
from autoprompt.learners.stack import Ride, ride_alone
from autoprompt.learners.training import Settings, batches
from autoprompt.models.backbone import Trainable
from autoprompt.models.inputs import Encoded, ModelInputs
from autoprompt.models.reading import read
from autoprompt.prompts.base import Fitted, Method, Prompt, origin_of
from autoprompt.text.placement import Placed, slots
from autoprompt.text.template import Template, render
from autoprompt.text.verbalizer import WordIds

if TYPE_CHECKING:
    from autoprompt.learners.auxiliary import Auxiliary
    from autoprompt.learners.workshop import Workshop


class Prompted:
    """Zero-shot where `training` is None. Otherwise `tuned` says which weights are trained: `all`
    (PET, LM-BFF), `bias`, or none; and `method`, if there is one, a prompt beside them or alone.

    `prior` calibrates: the mean distribution over the training texts, labels unused, is divided out
    of every answer (Holtzman et al. 2021; Zhao et al. 2021 with texts instead of an empty input).
    `auxiliary`: texts without labels whose hidden words are learned beside, where all is tuned.
    """

    def __init__(
        self,
        task: Task,
        workshop: Workshop,
        template: Template,
        words: WordIds,
        *,
        training: Settings | None,
        prior: bool,
        tuned: str = "",
        method: Method | None = None,
        auxiliary: Auxiliary | None = None,
    ) -> None:
        self.tokens = 0
        self._task, self._workshop, self._template = task, workshop, template
        self._words, self._answers = words, Answers(words, workshop.backbone.device)
        self._training, self._calibrated = training, prior
        self._tuned, self._method, self._auxiliary = tuned, method, auxiliary
        self._placed = Placed(template) if method is None else method.place(template)
        self._prompt: Prompt | Fitted | None = None
        self._log_prior = numpy.zeros(len(task.labels))
        self._generation: int | None = None  # of the backbone's weights, where they are ours

    def fit(self, examples: Sequence[Example], *, seed: int, deadline: float | None = None) -> None:
        """Train where there is something to train, then take the prior from the same texts and the
        workshop's unlabelled ones."""
        self._log_prior = numpy.zeros(len(self._task.labels))
        if self.rides:
            ride = self.ride(examples, seed=seed, deadline=deadline)
            ride_alone(ride, self._workshop.backbone)
        elif self._training is not None:
            self._train(examples, self._training, seed, deadline)
        self._arrived(examples)

    @property
    def rides(self) -> bool:
        """Whether its training can share a pass through the model with others: it leaves the
        model frozen."""
        return self._training is not None and not self._tuned

    def ride(self, examples: Sequence[Example], *, seed: int, deadline: float | None) -> Ride:
        """Its training as a ride of the stack; it is fitted when that has ended without an error.
        Only where `rides`."""
        assert self._training is not None, "nothing to train"
        self._log_prior = numpy.zeros(len(self._task.labels))
        self._workshop.backbone.weights.reset()
        prompt = self.start(seed)
        self._prompt = prompt

        def arrive() -> None:
            self._prompt = prompt.finish()
            self._arrived(examples)

        return Ride(
            self._asked(examples, self._rows(examples)),
            self._workshop.optimiser.begin(Trainable((), (), prompt.parameters()), self._training),
            batches(len(examples), self._training, seed),
            deadline,
            arrive,
        )

    def _arrived(self, examples: Sequence[Example]) -> None:
        """What follows training: the prior."""
        if self._calibrated:
            log_probs = self.scores([*examples, *self._workshop.unlabeled])  # [N + U, C]
            self._log_prior = numpy.log(numpy.exp(log_probs).mean(axis=0) + 1e-12)

    def scores(self, examples: Sequence[Example]) -> numpy.ndarray:
        """Log-probabilities [N, C]."""
        backbone = self._workshop.backbone
        if self._training is None:
            states = {}
            for k in self._answers.lengths:
                states[k], count = self._workshop.pretrained_answers(self._template, k, examples)
                self.tokens += count
        else:
            self._check_weights()
            rows = self._rows(examples)
            states = {k: read(backbone, encoded, self._states) for k, encoded in rows.items()}
            self.tokens += sum(len(row.ids) for encoded in rows.values() for row in encoded)
        found = self._answers.scores_in_chunks(backbone, states)
        return log_softmax(log_softmax(found.numpy()) - self._log_prior)

    def save(self, directory: Path) -> dict[str, Any]:
        """Write what training changed; return the calibration prior."""
        from safetensors.torch import save_file

        if self._training is not None:
            self._check_weights()
            files = {WEIGHTS: self._workshop.backbone.weights.changes()} if self._tuned else {}
            if self._method is not None:
                files[SOFT_PROMPT] = self._fitted().tensors()
            for name, tensors in files.items():
                save_file({k: t.contiguous() for k, t in tensors.items()}, directory / name)
        prior = numpy.exp(self._log_prior).tolist() if self._calibrated else None
        return {"calibration_prior": prior}

    def load(self, directory: Path, saved: Mapping[str, Any]) -> None:
        """Become the learner that `save` wrote."""
        from safetensors.torch import load_file

        backbone = self._workshop.backbone
        if self._method is not None:
            self._prompt = self._method.restore(backbone, load_file(directory / SOFT_PROMPT))
        if self._tuned:
            backbone.weights.apply_changes(load_file(directory / WEIGHTS))
            self._generation = backbone.weights.generation
        if self._calibrated:
            self._log_prior = numpy.log(numpy.asarray(saved["calibration_prior"], dtype=float))

    def _train(
        self, examples: Sequence[Example], settings: Settings, seed: int, deadline: float | None
    ) -> None:
        backbone, answers = self._workshop.backbone, self._answers
        rows = self._rows(examples)
        backbone.weights.reset()
        prompt = None if self._method is None else self.start(seed)
        self._prompt = prompt
        trainable = Trainable((), ())
        if self._tuned:
            used = {token for encoded in rows.values() for row in encoded for token in row.ids}
            if self._auxiliary is not None:  # any word may stand in for a hidden one
                used = set(range(backbone.vocabulary_size))
            trainable = backbone.weights.start(
                torch.tensor(sorted(used)),
                answers.token_ids,
                whole_vocabulary=answers.multi_token or self._auxiliary is not None,
                biases=self._tuned == "bias",
            )
        if prompt is not None:
            trainable = replace(trainable, prompt=prompt.parameters())
        batch_loss: Callable[[list[int]], torch.Tensor] = self._asked(examples, rows).batch_loss
        if self._auxiliary is not None:
            batch_loss = self._beside(batch_loss, self._auxiliary, settings, seed)
        try:
            shrink = self._workshop.optimiser.run(
                trainable,
                batch_loss,
                batches(len(examples), settings, seed),
                settings,
                deadline=deadline,
            )
        except BaseException:
            backbone.weights.reset()
            raise
        if prompt is not None:
            self._prompt = prompt.finish()
        if self._tuned:
            backbone.weights.finish(shrink)
            self._generation = backbone.weights.generation

    def start(self, seed: int) -> Prompt:
        """A fresh prompt of its method, drawn from `seed`."""
        assert self._method is not None, "no method learns a prompt here"
        backbone = self._workshop.backbone
        origin = origin_of(backbone, self._template, self._words, self._workshop.pool)
        count = slots(self._placed.template) + self._placed.lead
        return self._method.start(backbone, origin, count, seed)

    def share(self, prompt: Prompt, examples: Sequence[Example]) -> Asked:
        """`examples` asked with a prompt that others train at the same time."""
        self._prompt = prompt
        return self._asked(examples, self._rows(examples))

    def _rows(self, examples: Sequence[Example]) -> dict[int, list[Encoded]]:
        return {k: self._encode(examples, k) for k in self._answers.lengths}

    def _asked(self, examples: Sequence[Example], rows: Mapping[int, list[Encoded]]) -> Asked:
        held = {}
        for k, encoded in rows.items():
            held[k], count = self._workshop.beginnings.hold(encoded)
            self.tokens += count
        labels = torch.tensor(self._task.label_ids(examples))
        return Asked(self, rows, held, labels.to(self._workshop.backbone.device))

    def _beside(
        self,
        batch_loss: Callable[[list[int]], torch.Tensor],
        auxiliary: Auxiliary,
        settings: Settings,
        seed: int,
    ) -> Callable[[list[int]], torch.Tensor]:
        """The labels' loss and, at every step, that of as many texts without labels."""
        from autoprompt.learners.auxiliary import joined, masked_loss

        rows = self._encode(auxiliary.texts, min(self._answers.lengths))
        masked = masked_loss(self._workshop.backbone, rows, settings, seed)
        each = sum(len(row.ids) for row in rows) / len(rows)

        def both(chosen: list[int]) -> torch.Tensor:
            self.tokens += round(each * settings.batch_size)
            return joined(batch_loss(chosen), masked(), auxiliary.weight)

        return both

    def _fitted(self) -> Fitted:
        assert self._prompt is not None, "fit or load first"
        return cast("Fitted", self._prompt)

    def _states(self, inputs: ModelInputs) -> torch.Tensor:
        """Answer states [B, M, E] of a batch, the learned prompt put into it."""
        return self._workshop.backbone.answer_states(self._inserted(inputs))

    def _inserted(self, inputs: ModelInputs) -> ModelInputs:
        """A batch with the learned prompt in it, if there is one."""
        if self._prompt is None:
            return inputs
        return self._prompt.insert(inputs, self._workshop.backbone)

    def _encode(self, examples: Sequence[Example], masks: int) -> list[Encoded]:
        encode, placed = self._workshop.backbone.encode, self._placed
        return [
            encode(render(placed.template, e.text, e.text_b), masks, placed.lead, placed.reserve)
            for e in examples
        ]

    def _check_weights(self) -> None:
        if not self._tuned:
            self._workshop.backbone.weights.reset()  # such a prompt belongs to the pretrained model
        elif self._generation != self._workshop.backbone.weights.generation:
            raise LearnerError(
                "learner: its trained weights are gone, as another was fitted on the same model; "
                "score or save it before that, or fit it again"
            )


class Asked:
    """Labelled rows asked through a learner's prompt: batches of them, and their loss."""

    def __init__(
        self,
        learner: Prompted,
        rows: Mapping[int, list[Encoded]],
        held: Mapping[int, Sequence[torch.Tensor]],
        targets: torch.Tensor,
    ) -> None:
        self._learner, self._rows, self._held = learner, rows, held
        self._targets = targets

    def inputs(self, chosen: list[int]) -> list[ModelInputs]:
        """The batch of these rows, for every number of masks."""
        learner, found = self._learner, []
        for k, encoded in self._rows.items():
            parts = [self._held[k][index] for index in chosen] if self._held[k] else []
            batch = learner._workshop.backbone.batch([encoded[index] for index in chosen], parts)
            found.append(learner._inserted(batch))
            learner.tokens += sum(len(encoded[index].ids) for index in chosen)
            learner.tokens -= sum(part.shape[2] for part in parts)
        return found

    def loss(self, states: Sequence[torch.Tensor], chosen: list[int]) -> torch.Tensor:
        """Mean cross-entropy of the rows whose answer states these are."""
        learner = self._learner
        named = dict(zip(self._rows, states, strict=True))
        scores = learner._answers.scores(learner._workshop.backbone, named)
        return functional.cross_entropy(scores, self._targets[chosen])

    def batch_loss(self, chosen: list[int]) -> torch.Tensor:
        """Both, with a pass through the model in between."""
        backbone = self._learner._workshop.backbone
        return self.loss([backbone.answer_states(i) for i in self.inputs(chosen)], chosen)
