"""A language model asked through a template and read through label words. The core learner."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy
import torch

from autoprompt.data.task import Example, Task
from autoprompt.learners.answers import LOSSES, Answers
from autoprompt.learners.asked import Asked
from autoprompt.learners.base import (
    SOFT_PROMPT,
    WEIGHTS,
    CandidateError,
    LearnerError,
    log_softmax,
)
from autoprompt.learners.demonstrations import Beside, Demonstrations
from autoprompt.learners.riding import Reading, Ride
from autoprompt.learners.stack import ride_alone
from autoprompt.learners.training import Settings, batches, unrolled
from autoprompt.models.backbone import Trainable
from autoprompt.models.inputs import Encoded, ModelInputs
from autoprompt.models.reading import read
from autoprompt.prompts.base import Fitted, Method, Prompt, check_length, origin_of
from autoprompt.text.placement import Placed, slots
from autoprompt.text.template import Template, render
from autoprompt.text.verbalizer import WordIds

if TYPE_CHECKING:
    from autoprompt.learners.auxiliary import Auxiliary
    from autoprompt.learners.workshop import Workshop


class Prompted:
    """Zero-shot where `training` is None. Otherwise `tuned` says which weights are trained: `all`
    (PET, LM-BFF), `bias`, or none; and `method`, if there is one, a prompt beside them or alone.

    `demonstrations` stand beside every query, drawn anew whenever training meets it; at prediction
    the class scores of its samples are averaged (LM-BFF, section 6). `auxiliary`: texts without
    labels whose hidden words are learned beside, where all is tuned.
    """

    def __init__(
        self,
        task: Task,
        workshop: Workshop,
        template: Template,
        words: WordIds,
        *,
        training: Settings | None,
        tuned: str = "",
        method: Method | None = None,
        demonstrations: Demonstrations | None = None,
        auxiliary: Auxiliary | None = None,
    ) -> None:
        self.tokens = 0
        self._task, self._workshop, self._template = task, workshop, template
        self._words, self._answers = words, Answers(words, workshop.backbone.device)
        self._training, self._tuned, self._method = training, tuned, method
        self._demonstrations, self._auxiliary = demonstrations, auxiliary
        self._placed = Placed(template) if method is None else method.place(template)
        self._prompt: Prompt | Fitted | None = None
        self._generation: int | None = None  # of the backbone's weights, where they are ours

    def fit(self, examples: Sequence[Example], *, seed: int, deadline: float | None = None) -> None:
        """Train where there is something to train."""
        if self.rides:
            ride = self.ride(examples, seed=seed, deadline=deadline)
            ride_alone(ride, self._workshop.backbone)
            return
        self._depart(examples, seed)
        if self._training is not None:
            self._train(examples, self._training, seed, deadline)

    @property
    def rides(self) -> bool:
        """Whether its training can share a pass through the model with others: it leaves the
        model frozen."""
        return self._training is not None and not self._tuned

    def ride(self, examples: Sequence[Example], *, seed: int, deadline: float | None) -> Ride:
        """Its training as a ride of the stack; it is fitted when that has ended without an error.
        Only where `rides`."""
        assert self._training is not None, "nothing to train"
        self._depart(examples, seed)
        self._workshop.backbone.weights.reset()
        prompt = self.start(seed)
        self._prompt = prompt
        met, rows, order = self._met(examples, self._training, seed)

        descent = self._workshop.optimiser.begin(
            Trainable((), (), prompt.parameters()), self._training
        )

        def arrive() -> None:
            descent.check_end()
            self._prompt = prompt.finish()

        return Ride(
            self._asked(met, rows),
            descent,
            order,
            deadline,
            arrive,
        )

    def _depart(self, examples: Sequence[Example], seed: int) -> None:
        """What comes before training: the rows to show."""
        if self._demonstrations is not None:
            self._demonstrations.fit(examples, seed)

    def scores(self, examples: Sequence[Example]) -> numpy.ndarray:
        """Log-probabilities [N, C]."""
        backbone, workshop, states = self._workshop.backbone, self._workshop, {}
        if self._training is None and self._demonstrations is None:
            for k in self._answers.lengths:
                states[k], count = workshop.pretrained_answers(self._template, k, examples)
                self.tokens += count
        else:
            for k, encoded in self._queries(examples).items():
                if self._training is None:
                    states[k], count = workshop.pretrained_states(encoded)
                else:
                    self._check_weights()
                    states[k] = read(backbone, encoded, self._states)
                    count = sum(len(row.ids) for row in encoded)
                self.tokens += count
        return self._log_probs(states, len(examples))

    def reading(self, examples: Sequence[Example]) -> Reading:
        """Its `scores`, to be read beside others. Only where `rides`."""
        queries = self._queries(examples)
        self.tokens += sum(len(row.ids) for rows in queries.values() for row in rows)

        def answer(states: dict[int, torch.Tensor]) -> numpy.ndarray:
            self._check_weights()  # the label words' rows
            return self._log_probs(states, len(examples))

        return Reading(queries, self._inserted, answer)

    def _log_probs(self, states: Mapping[int, torch.Tensor], count: int) -> numpy.ndarray:
        """Of `count` texts, [count, C], from the answer states of their rows."""
        found = self._answers.scores_in_chunks(self._workshop.backbone, dict(states)).numpy()
        return log_softmax(found.reshape(-1, count, found.shape[1]).mean(axis=0))  # over samples

    def save(self, directory: Path) -> dict[str, Any]:
        """Write what training changed."""
        from safetensors.torch import save_file

        if self._demonstrations is not None:
            self._demonstrations.save(directory)
        if self._training is not None:
            self._check_weights()
            files = {WEIGHTS: self._workshop.backbone.weights.changes()} if self._tuned else {}
            if self._method is not None:
                files[SOFT_PROMPT] = self._fitted().tensors()
            for name, tensors in files.items():
                save_file({k: t.contiguous() for k, t in tensors.items()}, directory / name)
        return {}

    def load(self, directory: Path, saved: Mapping[str, Any]) -> None:
        """Become the learner that `save` wrote."""
        from safetensors.torch import load_file

        backbone = self._workshop.backbone
        if self._demonstrations is not None:
            self._demonstrations.load(directory)
        if self._method is not None:
            tensors = load_file(directory / SOFT_PROMPT)
            check_length(tensors, self._slots or self._method.length)
            self._prompt = self._method.restore(backbone, tensors)
        if self._tuned:
            backbone.weights.apply_changes(load_file(directory / WEIGHTS))
            self._generation = backbone.weights.generation

    def _train(
        self, examples: Sequence[Example], settings: Settings, seed: int, deadline: float | None
    ) -> None:
        backbone, answers = self._workshop.backbone, self._answers
        met, rows, order = self._met(examples, settings, seed)
        backbone.weights.reset()
        prompt = None if self._method is None else self.start(seed)
        self._prompt = prompt
        trainable = Trainable((), ())
        if self._tuned:
            every = [row for encoded in rows.values() for row in encoded]
            used = {token for row in every for token in (*row.ids, *row.decoder)}
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
        batch_loss: Callable[[list[int]], torch.Tensor] = self._asked(met, rows).batch_loss
        if self._auxiliary is not None:
            batch_loss = self._beside(
                batch_loss, self._auxiliary.texts(examples), self._auxiliary.weight, settings, seed
            )
        try:
            shrink = self._workshop.optimiser.run(
                trainable, batch_loss, order, settings, deadline=deadline
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
        return self._method.start(backbone, origin, self._slots, seed)

    @property
    def _slots(self) -> int:
        """Places of the template, and before it, for learned tokens."""
        return slots(self._placed.template) + self._placed.lead

    def share(self, prompt: Prompt, examples: Sequence[Example]) -> Asked:
        """`examples` asked with a prompt that others train at the same time."""
        self._prompt = prompt
        return self._asked(examples, self._rows(examples))

    def _met(
        self, examples: Sequence[Example], settings: Settings, seed: int
    ) -> tuple[Sequence[Example], dict[int, list[Encoded]], Iterator[list[int]]]:
        """What training meets, laid out, and the numbers of each step."""
        order = batches(len(examples), settings, seed)
        if self._demonstrations is None:
            return examples, self._rows(examples), order
        met, order = unrolled(examples, order)  # a row has others beside it when it comes again
        return met, self._rows(met, self._shown(lambda shown: shown.of_training(met, seed))), order

    def _queries(self, examples: Sequence[Example]) -> dict[int, list[Encoded]]:
        """Rows [samples * N] to predict from, sample by sample; N without demonstrations."""
        if self._demonstrations is None:
            return self._rows(examples)
        beside = self._shown(lambda shown: shown.of_queries(examples))
        return self._rows(list(examples) * self._demonstrations.samples, beside)

    def _shown(self, draw: Callable[[Demonstrations], list[Beside]]) -> list[Beside]:
        """What stands beside some queries, the tokens read to choose it counted."""
        assert self._demonstrations is not None, "none are shown"
        before = self._demonstrations.tokens
        drawn = draw(self._demonstrations)
        self.tokens += self._demonstrations.tokens - before
        return drawn

    def _rows(
        self, examples: Sequence[Example], beside: Sequence[Beside] | None = None
    ) -> dict[int, list[Encoded]]:
        encode, placed = self._workshop.backbone.encode, self._placed
        shown = beside or [()] * len(examples)
        pieces = [render(placed.template, e.text, e.text_b) for e in examples]
        return {
            k: [
                encode(prompt, k, placed.lead, placed.reserve, demonstrations)
                for prompt, demonstrations in zip(pieces, shown, strict=True)
            ]
            for k in self._answers.lengths
        }

    def _asked(self, examples: Sequence[Example], rows: Mapping[int, list[Encoded]]) -> Asked:
        held = {}
        for k, encoded in rows.items():
            held[k], count = self._workshop.beginnings.hold(encoded)
            self.tokens += count
        labels = torch.tensor(self._task.label_ids(examples))
        backbone = self._workshop.backbone
        return Asked(
            backbone,
            self._answers,
            rows,
            held,
            labels.to(backbone.device),
            self._inserted,
            self._read,
            self._training.loss if self._training else LOSSES[0],
        )

    def _read(self, tokens: int) -> None:
        self.tokens += tokens

    def _beside(
        self,
        batch_loss: Callable[[list[int]], torch.Tensor],
        texts: Sequence[Example],
        weight: float,
        settings: Settings,
        seed: int,
    ) -> Callable[[list[int]], torch.Tensor]:
        """The labels' loss and, at every step, that of as many texts without labels."""
        from autoprompt.learners.auxiliary import joined, masked_loss

        if not texts:
            raise CandidateError(
                f"auxiliary_weight: {weight} without texts to hide words of; give "
                "--unlabeled, or set 0"
            )
        rows = self._rows(texts)[min(self._answers.lengths)]
        masked = masked_loss(self._workshop.backbone, rows, settings, seed, self._inserted)
        each = sum(len(row.ids) for row in rows) / len(rows)

        def both(chosen: list[int]) -> torch.Tensor:
            self.tokens += round(each * settings.batch_size)
            return joined(batch_loss(chosen), masked(), weight)

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

    def _check_weights(self) -> None:
        if not self._tuned:
            self._workshop.backbone.weights.reset()  # such a prompt belongs to the pretrained model
        elif self._generation != self._workshop.backbone.weights.generation:
            raise LearnerError(
                "learner: its trained weights are gone, as another was fitted on the same model; "
                "score or save it before that, or fit it again"
            )
