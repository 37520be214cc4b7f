"""A classification head on a state of the model, which is tuned, or has a learned prefix. Knows no
template."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy
import torch
from torch.nn import functional

from autoprompt.data.task import Example, Task
from autoprompt.learners.base import SOFT_PROMPT, WEIGHTS, LearnerError, log_softmax
from autoprompt.learners.riding import Reading, Ride
from autoprompt.learners.stack import ride_alone
from autoprompt.learners.training import Settings, batches
from autoprompt.models.backbone import Backbone, Trainable
from autoprompt.models.inputs import Encoded, Laid, ModelInputs
from autoprompt.models.reading import read
from autoprompt.prompts.base import Fitted, Origin, Prompt, check_length
from autoprompt.prompts.key_values import PrefixMethod

if TYPE_CHECKING:
    from autoprompt.learners.workshop import Workshop

SPREAD = 0.02  # standard deviation of the new head's weights, as BERT's (Devlin et al. 2019)
NOWHERE = Origin((), ())  # a plain text has no template, and a prefix begins with no word


def read_state(backbone: Backbone, inputs: ModelInputs) -> torch.Tensor:
    """Last hidden state [B, d] where a plain text is read: of an encoder-decoder, the encoder's."""
    return backbone.read_states(inputs)[:, 0]


class Head:
    """On the first token's state, or on the last's where the model reads onwards.

    Without a `method`: dense layer, tanh and a linear layer, and all weights are tuned. With one:
    the model is frozen, a linear layer alone is trained together with the prefix (P-tuning v2, Liu
    et al. 2022, section 3.3), both at the prompt's rate.
    """

    def __init__(
        self,
        task: Task,
        workshop: Workshop,
        training: Settings,
        method: PrefixMethod | None = None,
    ) -> None:
        self.tokens = 0
        self._task, self._workshop, self._training = task, workshop, training
        self._method = method
        self._prompt: Prompt | Fitted | None = None
        self._head: dict[str, torch.Tensor] = {}
        self._generation: int | None = None

    def fit(self, examples: Sequence[Example], *, seed: int, deadline: float | None = None) -> None:
        """Train a fresh head from `seed`, with the model or with a fresh prefix."""
        if self.rides:
            ride_alone(self.ride(examples, seed=seed, deadline=deadline), self._workshop.backbone)
            return
        device = self._workshop.backbone.device
        targets = torch.tensor(self._task.label_ids(examples), device=device)
        self.train(
            examples,
            lambda logits, chosen: functional.cross_entropy(logits, targets[chosen]),
            seed=seed,
            deadline=deadline,
        )

    @property
    def rides(self) -> bool:
        """Whether its training can share a pass through the model with others: it leaves the
        model frozen."""
        return self._method is not None

    def ride(self, examples: Sequence[Example], *, seed: int, deadline: float | None) -> Ride:
        """Its training as a ride of the stack; it is fitted when that has ended without an error.
        Only where `rides`."""
        assert self._method is not None, "nothing but the model to train"
        backbone, training = self._workshop.backbone, self._training
        backbone.weights.reset()
        rows = self._encode(examples)
        self._head = self._fresh(seed)
        prompt = self._method.start(backbone, NOWHERE, 0, seed)
        self._prompt = prompt
        descent = self._workshop.optimiser.begin(
            Trainable((), (), (*prompt.parameters(), *self._head.values())), training
        )

        def arrive() -> None:
            descent.check_end()
            self._head = {n: t.detach() for n, t in self._head.items()}
            self._prompt = prompt.finish()

        targets = torch.tensor(self._task.label_ids(examples), device=backbone.device)
        rider = _Plain(self, backbone.lay(rows), targets)
        return Ride(rider, descent, batches(len(rows), training, seed), deadline, arrive)

    def reading(self, examples: Sequence[Example]) -> Reading:
        """Its `scores`, to be read beside others. Only where `rides`."""
        rows = self._encode(examples)
        self.tokens += sum(len(row.ids) for row in rows)

        def answer(states: dict[int, torch.Tensor]) -> numpy.ndarray:
            state = states[1][:, 0].to(self._workshop.backbone.device)
            return log_softmax(self._from_state(state).cpu().numpy())

        return Reading({1: rows}, self._inserted, answer, hidden=True)

    def train(
        self,
        examples: Sequence[Example],
        loss: Callable[[torch.Tensor, list[int]], torch.Tensor],
        *,
        seed: int,
        deadline: float | None = None,
    ) -> None:
        """Train a fresh head and all weights on any loss of a batch's logits [B, C] and its rows'
        numbers; no label is read here. Only where it does not ride."""
        backbone = self._workshop.backbone
        rows = self._encode(examples)
        self._head = self._fresh(seed)
        trainable, laid = self._tuned(rows), backbone.lay(rows)

        def batch_loss(chosen: list[int]) -> torch.Tensor:
            return loss(self._logits(self.batch(laid, chosen)), chosen)

        try:
            shrink = self._workshop.optimiser.run(
                trainable,
                batch_loss,
                batches(len(rows), self._training, seed),
                self._training,
                deadline=deadline,
            )
        except BaseException:
            backbone.weights.reset()
            raise
        self._head = {n: t.detach() for n, t in self._head.items()}
        backbone.weights.finish(shrink)
        self._generation = backbone.weights.generation

    def scores(self, examples: Sequence[Example]) -> numpy.ndarray:
        """Log-probabilities [N, C]."""
        self._check_weights()
        rows = self._encode(examples)
        self.tokens += sum(len(row.ids) for row in rows)
        return log_softmax(read(self._workshop.backbone, rows, self._logits).numpy())

    def save(self, directory: Path) -> dict[str, Any]:
        """Write the head, and the prefix or what training changed in the model."""
        from safetensors.torch import save_file

        self._check_weights()
        head = {n: t.cpu() for n, t in self._head.items()}
        files = {WEIGHTS: self._workshop.backbone.weights.changes() | head}
        if self._method is not None:
            files[SOFT_PROMPT] = cast("Fitted", self._prompt).tensors()
        for name, tensors in files.items():
            save_file({n: t.contiguous() for n, t in tensors.items()}, directory / name)
        return {}

    def load(self, directory: Path, saved: Mapping[str, Any]) -> None:
        """Become the learner that `save` wrote."""
        from safetensors.torch import load_file

        backbone = self._workshop.backbone
        tensors = load_file(directory / WEIGHTS)
        own = {n: t for n, t in tensors.items() if n.startswith("head.") and n.count(".") == 2}
        self._head = {n: t.to(backbone.device) for n, t in own.items()}
        if self._method is not None:
            tensors = load_file(directory / SOFT_PROMPT)
            check_length(tensors, self._method.length)
            self._prompt = self._method.restore(backbone, tensors)
            return
        backbone.weights.apply_changes({n: t for n, t in tensors.items() if n not in own})
        self._generation = backbone.weights.generation

    def _fresh(self, seed: int) -> dict[str, torch.Tensor]:
        size, classes = self._workshop.backbone.hidden_size, len(self._task.labels)
        generator = torch.Generator().manual_seed(seed)
        layers = {"out": classes} if self._method is not None else {"dense": size, "out": classes}
        head = {}
        for name, width in layers.items():
            head[f"head.{name}.weight"] = torch.randn(width, size, generator=generator) * SPREAD
            head[f"head.{name}.bias"] = torch.zeros(width)
        device = self._workshop.backbone.device
        return {n: t.to(device).requires_grad_(True) for n, t in head.items()}

    def _tuned(self, rows: Sequence[Encoded]) -> Trainable:
        """The model's weights that the rows reach, and the head's."""
        model = self._workshop.backbone.weights.start(
            torch.tensor(sorted({token for row in rows for token in row.ids})),
            torch.zeros(0, dtype=torch.int64),
        )
        own = self._head.values()
        return Trainable(
            (*model.decayed, *(t for t in own if t.dim() > 1)),
            (*model.plain, *(t for t in own if t.dim() == 1)),
        )

    def _logits(self, inputs: ModelInputs) -> torch.Tensor:
        return self._from_state(read_state(self._workshop.backbone, self._inserted(inputs)))

    def batch(self, rows: Laid, chosen: list[int]) -> ModelInputs:
        """Some of the rows, counted."""
        self.tokens += sum(rows.lengths[index] for index in chosen)
        return rows.take(chosen)

    def _inserted(self, inputs: ModelInputs) -> ModelInputs:
        """A batch with the prefix in it, if there is one."""
        if self._prompt is None:
            return inputs
        return self._prompt.insert(inputs, self._workshop.backbone)

    def _from_state(self, state: torch.Tensor) -> torch.Tensor:
        """Logits [B, C] from states [B, d]."""
        head = self._head
        if self._method is None:
            state = torch.tanh(
                functional.linear(state, head["head.dense.weight"], head["head.dense.bias"])
            )
        return functional.linear(state, head["head.out.weight"], head["head.out.bias"])

    def _encode(self, examples: Sequence[Example]) -> list[Encoded]:
        encode = self._workshop.backbone.encode_plain
        reserve = 0 if self._method is None else self._method.length
        return [encode(e.text, e.text_b, reserve) for e in examples]

    def _check_weights(self) -> None:
        if self._method is not None:
            self._workshop.backbone.weights.reset()  # a prefix belongs to the pretrained model
            return
        if (
            self._generation is None
            or self._generation != self._workshop.backbone.weights.generation
        ):
            raise LearnerError(
                "learner: its trained weights are gone, as another was fitted on the same model; "
                "score or save it before that, or fit it again"
            )


class _Plain:
    """Plain texts asked through a learned prefix, read by a head."""

    hidden = True

    def __init__(self, head: Head, rows: Laid, targets: torch.Tensor) -> None:
        self._head, self._rows, self._targets = head, rows, targets

    def inputs(self, chosen: list[int]) -> list[ModelInputs]:
        """The batch of these rows."""
        return [self._head._inserted(self._head.batch(self._rows, chosen))]

    def loss(self, states: Sequence[torch.Tensor], chosen: list[int]) -> torch.Tensor:
        """Mean cross-entropy from their states [B, 1, d]."""
        logits = self._head._from_state(states[0][:, 0])
        return functional.cross_entropy(logits, self._targets[chosen])
