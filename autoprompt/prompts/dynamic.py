"""Dynamic prompting: where the prompt stands, how long it is and what it says are learned, for the
task or for every text (Yang et al. 2023).

A controller reads the frozen model's mean state of the bare text. Positions and lengths are chosen
by a straight-through Gumbel-Softmax in training and by the likeliest choice afterwards; the vectors
are a mean over a pool, weighted by softmax. `fidelity = reference` follows the reference code where
it and the paper part: noise also when answering, one draw for a whole batch (adap_pos), ReLU on
position logits, tanh on adap_ins_vec's, the mean state over padding too, and the prompt's first
tokens behind the text where the paper moves its last.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import nn

from autoprompt.models.backbone import Backbone
from autoprompt.models.inputs import ModelInputs
from autoprompt.prompts.base import (
    INITIALISATIONS,
    Origin,
    PromptError,
    chosen,
    drawn_from,
    initial_vectors,
    whole,
)
from autoprompt.prompts.layout import (
    arrange,
    gumbel,
    positions,
    shorter,
    straight_through,
    temperature,
)
from autoprompt.text.placement import Placed, refuse_slots
from autoprompt.text.template import Template

#: What is chosen (position, length, nothing), by whom (task, instance), and whether from a pool.
CONTROLLERS: dict[str, tuple[str, str, bool]] = {
    "adap_pos": ("position", "task", False),
    "adap_ins_pos": ("position", "instance", False),
    "adap_ins_vec": ("", "", True),
    "adap_ins_vec_pos": ("position", "instance", True),
    "adap_pos_ins_vec": ("position", "task", True),
    "adap_len": ("length", "task", False),
    "adap_ins_len": ("length", "instance", False),
}
PLACES = ("front", "after_bos")  # of the front block
POOL = "pool"  # beside INITIALISATIONS: vectors and controller trained on other tasks
FIDELITIES = ("sane", "reference")
LOGITS = 0.5  # task-level logits begin uniform within this, as in the reference code


@dataclass(frozen=True, slots=True)
class Dynamic:
    """Length in tokens, one of CONTROLLERS, pool size, place of the front block, one of
    INITIALISATIONS or POOL, annealing of the temperature, and whether the reference's quirks are
    kept."""

    length: int
    controller: str
    pool: int
    position: str
    initialisation: str
    annealing: float
    faithful: bool

    def place(self, template: Template) -> Placed:
        """Room for the prompt, which stands in no slot; `TemplateError` for `{soft:N}`."""
        refuse_slots(template, "a dynamic prompt finds its own place")
        return Placed(template, reserve=self.length)

    def start(self, backbone: Backbone, origin: Origin, slots: int, seed: int) -> Live:
        """Fresh vectors and a fresh controller, drawn from `seed`; or those of the pool.

        `PromptError` where there is no pool to begin with, or none of this model and these
        settings.
        """
        generator = torch.Generator().manual_seed(seed)
        if self.initialisation == POOL:
            return Live(self, self._known(backbone, _given(origin)), generator)
        count = self.pool * self.length
        vectors = initial_vectors(self.initialisation, count, backbone, origin, generator)
        with drawn_from(seed):
            network = Network(self, backbone.hidden_size, backbone.embedding_size)
        with torch.no_grad():
            network.vectors.copy_(vectors.view(self.pool, self.length, -1))
        return Live(self, network.to(backbone.device), generator)

    def restore(self, backbone: Backbone, tensors: Mapping[str, torch.Tensor]) -> Chooser:
        """Saved vectors and their controller; `PromptError` where they do not fit the model."""
        return Chooser(self, self._known(backbone, tensors).requires_grad_(False))

    def _known(self, backbone: Backbone, tensors: Mapping[str, torch.Tensor]) -> Network:
        with drawn_from(0):  # and overwritten: no other thread's draws are disturbed
            network = Network(self, backbone.hidden_size, backbone.embedding_size)
        try:
            network.load_state_dict({k: t.float() for k, t in tensors.items()})
        except RuntimeError as error:
            raise PromptError(
                f"prompt: its tensors do not fit {backbone.name!r} ({' '.join(str(error).split())})"
                "; load it with the model it was trained on"
            ) from error
        return network.to(backbone.device)


class Network(nn.Module):
    """`vectors` [k, P, E]; `logits` [P + 1] or `where`, d to P + 1; `blend`, d to k."""

    def __init__(self, settings: Dynamic, hidden: int, size: int) -> None:
        super().__init__()
        what, level, pooled = CONTROLLERS[settings.controller]
        self.vectors = nn.Parameter(torch.empty(settings.pool, settings.length, size))
        self.logits: nn.Parameter | None = None
        self.where: nn.Linear | None = None
        self.blend: nn.Linear | None = None
        if what and level == "task":
            self.logits = nn.Parameter(torch.empty(settings.length + 1).uniform_(-LOGITS, LOGITS))
        elif what:
            self.where = nn.Linear(hidden, settings.length + 1)
        if pooled:
            self.blend = nn.Linear(hidden, settings.pool)


class Chooser:
    """A finished dynamic prompt: every text gets its likeliest layout."""

    _keeps = False  # states of texts: it hardly meets one twice

    def __init__(self, settings: Dynamic, network: Network) -> None:
        self._settings, self._network = settings, network
        self._noise = torch.Generator().manual_seed(0)  # of faithful answers
        self._means: dict[bytes, torch.Tensor] = {}

    def insert(self, inputs: ModelInputs, backbone: Backbone) -> ModelInputs:
        """The batch with the prompt where the controller wants it."""
        noise = self._noise if self._settings.faithful else None
        return self._insert(inputs, backbone, 1.0, noise)

    def tensors(self) -> dict[str, torch.Tensor]:
        """The vectors and the controller's weights."""
        state = self._network.state_dict()
        return {name: tensor.detach().cpu().clone() for name, tensor in state.items()}

    def _insert(
        self,
        inputs: ModelInputs,
        backbone: Backbone,
        heat: float,
        noise: torch.Generator | None,
    ) -> ModelInputs:
        settings, network = self._settings, self._network
        what, _, _ = CONTROLLERS[settings.controller]
        reads = network.where is not None or network.blend is not None
        state = self._state(inputs, backbone) if reads else None  # [B, d]
        text = backbone.embed(inputs.input_ids)  # [B, T, E]
        tokens = torch.cat([self._vectors(state, len(text)).to(text.dtype), text], dim=1)
        index = self._index(inputs, text.shape[1], what, backbone.opening)  # [B, J, N + T]
        choice = self._choice(state, len(text), index.shape[1], heat, noise)  # [B, J]
        best = choice.argmax(dim=1)  # [B]
        behind = settings.length - best if what == "length" else torch.zeros_like(best)
        ahead = settings.length - (best if what == "position" else behind)
        last = inputs.attention_mask.sum(dim=1, keepdim=True) - 1
        # What is read may be the row's last token: the back block stands before that one too.
        added = torch.full_like(ahead, settings.length) if what != "length" else ahead
        read = inputs.mask_positions  # [B, M]
        shift = torch.where(read >= last, added.unsqueeze(1), ahead.unsqueeze(1))
        if inputs.decoder_ids is not None:
            shift = torch.zeros_like(shift)  # the decoder is read, and nothing moves there
        real = inputs.attention_mask.sum(dim=1) + settings.length - behind
        places = torch.arange(tokens.shape[1], device=text.device)
        types = inputs.token_type_ids
        if types is not None:
            rows = torch.arange(len(best), device=text.device)
            lead = types[:, :1].expand(-1, settings.length)
            types = torch.cat([lead, types], dim=1).gather(1, index[rows, best])
        return replace(
            inputs,
            embeds=arrange(tokens, choice, index),
            attention_mask=(places < real.unsqueeze(1)).to(inputs.attention_mask.dtype),
            token_type_ids=types,
            mask_positions=read + shift,
        )

    def _index(self, inputs: ModelInputs, length: int, what: str, opening: int) -> torch.Tensor:
        settings = self._settings
        first = 0 if settings.position == "front" else opening
        real = inputs.attention_mask.sum(dim=1)
        if what == "length":
            return shorter(settings.length, length, first, real)
        found = positions(settings.length, length, first, real - 1, head_moves=settings.faithful)
        return found if what else found[:, :1]

    def _vectors(self, state: torch.Tensor | None, rows: int) -> torch.Tensor:
        """[B, P, E]"""
        network = self._network
        if network.blend is None or state is None:
            return network.vectors.expand(rows, -1, -1)
        weights = network.blend(state)
        if self._settings.faithful and self._settings.controller == "adap_ins_vec":
            weights = weights.tanh()
        return torch.einsum("bk,kpe->bpe", weights.softmax(dim=1), network.vectors)

    def _choice(
        self,
        state: torch.Tensor | None,
        rows: int,
        layouts: int,
        heat: float,
        noise: torch.Generator | None,
    ) -> torch.Tensor:
        network, settings = self._network, self._settings
        if network.logits is None and network.where is None:
            return torch.ones(rows, layouts, device=network.vectors.device)
        drawn = None
        if network.where is not None:
            assert state is not None
            logits = network.where(state)  # [B, J]
            if settings.faithful:
                logits = logits.relu()
        else:
            assert network.logits is not None
            logits = network.logits.unsqueeze(0)
            if not settings.faithful or noise is None:
                logits = logits.expand(rows, -1)  # a draw of its own for every row
        if noise is not None:
            drawn = gumbel(tuple(logits.shape), noise).to(logits.device)
        return straight_through(logits, heat, drawn).expand(rows, -1)

    def _state(self, inputs: ModelInputs, backbone: Backbone) -> torch.Tensor:
        """Mean last hidden state [B, d] of the bare texts; kept while the model is frozen."""
        settings = self._settings
        attended = inputs.attention_mask.bool()
        keys = [
            row[kept].cpu().numpy().tobytes()
            for row, kept in zip(inputs.input_ids, attended, strict=True)
        ]
        keep = self._keeps and backbone.weights.frozen and not settings.faithful
        if not keep or any(key not in self._means for key in keys):
            with torch.no_grad():
                hidden = backbone.hidden(replace(inputs, prefix=None, embeds=None))
                hidden = hidden.to(self._network.vectors.dtype)
                weights = torch.ones_like(attended) if settings.faithful else attended
                weights = weights.unsqueeze(-1).to(hidden.dtype)
                means = (hidden * weights).sum(dim=1) / weights.sum(dim=1)
            if not keep:
                return means
            self._means.update(zip(keys, means, strict=True))
        return torch.stack([self._means[key] for key in keys])


class Live(Chooser):
    """A dynamic prompt in training: choices are drawn, colder with every step."""

    _keeps = True  # they come again with every epoch

    def __init__(self, settings: Dynamic, network: Network, noise: torch.Generator) -> None:
        super().__init__(settings, network)
        self._noise, self._step = noise, 0

    def parameters(self) -> tuple[torch.Tensor, ...]:
        """Vectors and controller."""
        return tuple(self._network.parameters())

    def insert(self, inputs: ModelInputs, backbone: Backbone) -> ModelInputs:
        """The batch with the prompt where a draw wants it."""
        heat = temperature(self._step, self._settings.annealing)
        self._step += 1
        return self._insert(inputs, backbone, heat, self._noise)

    def finish(self) -> Chooser:
        """The same without noise."""
        return Chooser(self._settings, self._network.requires_grad_(False))


def _given(origin: Origin) -> Mapping[str, torch.Tensor]:
    if origin.pool is None:
        raise PromptError(
            f"prompt_init: {POOL!r} begins with a trained prompt pool and there is none; search "
            f"with --pool POOL, or choose one of {', '.join(INITIALISATIONS)}"
        )
    return origin.pool


def read(values: Mapping[str, object]) -> Dynamic:
    """From a candidate's prompt_length, controller, prompt_position, prompt_init and, where they
    apply, pool_size, annealing and fidelity; `PromptError` if unusable."""
    controller = chosen(values, "controller", tuple(CONTROLLERS))
    what, _, pooled = CONTROLLERS[controller]
    annealing = values.get("annealing", 10.0) if what else 10.0
    if not isinstance(annealing, (int, float)) or isinstance(annealing, bool) or annealing <= 0:
        raise PromptError(f"annealing: {annealing!r} is no number above 0; give one, such as 10")
    return Dynamic(
        whole(values, "prompt_length"),
        controller,
        whole(values, "pool_size") if pooled else 1,
        chosen(values, "prompt_position", PLACES),
        chosen(values, "prompt_init", (*INITIALISATIONS, POOL)),
        float(annealing),
        chosen({"fidelity": "sane"} | dict(values), "fidelity", FIDELITIES) == "reference",
    )
