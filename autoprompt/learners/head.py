"""Fine-tuning with a classification head: no prompt, the usual way. Knows no template."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy
import torch
from torch.nn import functional

from autoprompt.data.task import Example, Task
from autoprompt.learners.base import LearnerError, log_softmax
from autoprompt.learners.training import Settings
from autoprompt.models.backbone import Trainable
from autoprompt.models.inputs import Encoded, ModelInputs
from autoprompt.models.reading import read

if TYPE_CHECKING:
    from autoprompt.learners.workshop import Workshop

WEIGHTS = "weights.safetensors"
SPREAD = 0.02  # standard deviation of the new head's weights, as BERT's (Devlin et al. 2019)


class Head:
    """Dense layer, tanh and a linear layer on the first token's state, or on the last's where the
    model reads onwards; all weights are tuned."""

    def __init__(self, task: Task, workshop: Workshop, training: Settings) -> None:
        self.tokens = 0
        self._task, self._workshop, self._training = task, workshop, training
        self._head: dict[str, torch.Tensor] = {}
        self._generation: int | None = None

    def fit(self, examples: Sequence[Example], *, seed: int, deadline: float | None = None) -> None:
        """Tune the model and a fresh head from `seed`."""
        backbone = self._workshop.backbone
        targets = torch.tensor(self._task.label_ids(examples), device=backbone.device)
        rows = self._encode(examples)
        size, classes = backbone.hidden_size, len(self._task.labels)
        generator = torch.Generator().manual_seed(seed)
        head = {
            "head.dense.weight": torch.randn(size, size, generator=generator) * SPREAD,
            "head.dense.bias": torch.zeros(size),
            "head.out.weight": torch.randn(classes, size, generator=generator) * SPREAD,
            "head.out.bias": torch.zeros(classes),
        }
        self._head = {n: t.to(backbone.device).requires_grad_(True) for n, t in head.items()}
        model = backbone.weights.start(
            torch.tensor(sorted({token for row in rows for token in row.ids})),
            torch.zeros(0, dtype=torch.int64),
        )
        own = self._head.values()
        trainable = Trainable(
            (*model.decayed, *(t for t in own if t.dim() > 1)),
            (*model.plain, *(t for t in own if t.dim() == 1)),
        )

        def batch_loss(chosen: list[int]) -> torch.Tensor:
            self.tokens += sum(len(rows[index].ids) for index in chosen)
            logits = self._logits(backbone.batch([rows[index] for index in chosen]))
            return functional.cross_entropy(logits, targets[chosen])

        try:
            shrink = self._workshop.optimiser.run(
                trainable, batch_loss, len(rows), self._training, seed=seed, deadline=deadline
            )
        except BaseException:
            backbone.weights.reset()
            raise
        backbone.weights.finish(shrink)
        self._head = {n: t.detach() for n, t in self._head.items()}
        self._generation = backbone.weights.generation

    def scores(self, examples: Sequence[Example]) -> numpy.ndarray:
        """Log-probabilities [N, C]."""
        self._check_weights()
        rows = self._encode(examples)
        self.tokens += sum(len(row.ids) for row in rows)
        return log_softmax(read(self._workshop.backbone, rows, self._logits).numpy())

    def save(self, directory: Path) -> dict[str, Any]:
        """Write the head and what training changed in the model."""
        from safetensors.torch import save_file

        self._check_weights()
        tensors = self._workshop.backbone.weights.changes() | {
            n: t.cpu() for n, t in self._head.items()
        }
        save_file({n: t.contiguous() for n, t in tensors.items()}, directory / WEIGHTS)
        return {}

    def load(self, directory: Path, saved: Mapping[str, Any]) -> None:
        """Become the learner that `save` wrote."""
        from safetensors.torch import load_file

        backbone = self._workshop.backbone
        tensors = load_file(directory / WEIGHTS)
        own = {n: t for n, t in tensors.items() if n.startswith("head.") and n.count(".") == 2}
        self._head = {n: t.to(backbone.device) for n, t in own.items()}
        backbone.weights.apply_changes({n: t for n, t in tensors.items() if n not in own})
        self._generation = backbone.weights.generation

    def _logits(self, inputs: ModelInputs) -> torch.Tensor:
        head = self._head
        hidden = self._workshop.backbone.hidden(inputs)
        read = inputs.mask_positions[:, :1, None].expand(-1, -1, hidden.shape[-1])
        first = hidden.gather(1, read)[:, 0].float()  # [B, d]
        dense = torch.tanh(
            functional.linear(first, head["head.dense.weight"], head["head.dense.bias"])
        )
        return functional.linear(dense, head["head.out.weight"], head["head.out.bias"])

    def _encode(self, examples: Sequence[Example]) -> list[Encoded]:
        return [self._workshop.backbone.encode_plain(e.text, e.text_b) for e in examples]

    def _check_weights(self) -> None:
        if (
            self._generation is None
            or self._generation != self._workshop.backbone.weights.generation
        ):
            raise LearnerError(
                "learner: its trained weights are gone, as another was fitted on the same model; "
                "score or save it before that, or fit it again"
            )
