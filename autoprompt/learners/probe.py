"""Whether a model can take a learned prompt, and the texts: tried, not looked up. Trains nothing.

One forward and one backward pass: the answer must move, every trained tensor must get a finite
gradient that is not zero, and an answer must not depend on the rows beside it. With a head the
answer is the state that it reads.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

from autoprompt.data.task import Example
from autoprompt.learners.build import learned_prompt, prefix_of, reads_head
from autoprompt.text import manual
from autoprompt.text.placement import Placed, slots
from autoprompt.text.template import parse, render
from autoprompt.text.tokens import whole_characters
from autoprompt.text.truncation import TruncationError
from search_spaces.candidate import Candidate

if TYPE_CHECKING:
    import torch

    from autoprompt.models.backbone import Backbone
    from autoprompt.models.inputs import Encoded, ModelInputs

UNKNOWN = 0.1  # share of a text's tokens that a model may not know: a few signs are common
TEXTS = ("a", "it was the first and the last of them")
LEAST, APART = 1e-7, 1e-3  # of a gradient and a change; of an answer alone and in company


def room_for_text(backbone: Backbone, template: str, kind: str, masks: int = 1) -> int:
    """Tokens that are left beside a template for text, or prompt and text; at least one.

    masks: those of its longest label word. `TruncationError` where none is left.
    """
    second = "" if kind == "pair" else None
    error = TruncationError(
        f"template {template!r}: leaves no room for a text, as {backbone.name!r} reads "
        f"{backbone.max_length} tokens; shorten it, or use a model that reads longer inputs"
    )
    try:
        bare = len(backbone.encode(render(parse(template), "", second), masks).ids)
    except TruncationError:
        raise error from None
    if bare >= backbone.max_length:
        raise error
    return backbone.max_length - bare


def misread(backbone: Backbone, examples: Sequence[Example], kind: str) -> list[str]:
    """What a user should know of texts that the model can hardly read or must cut, a line each."""
    tokenizer, lines = backbone.tokenizer, []
    template = manual.default_template(kind, onwards=backbone.reads_onwards)
    room = room_for_text(backbone, template, kind)
    unknown = tokens = cut = 0
    for one in examples:
        length = 0
        for text in (one.text, one.text_b or ""):
            ids = tokenizer(whole_characters(text), add_special_tokens=False)["input_ids"]
            unknown += sum(token == tokenizer.unk_token_id for token in ids)
            length += len(ids)
        tokens += length
        cut += length > room
    if unknown > UNKNOWN * tokens:
        lines.append(
            f"{round(100 * unknown / tokens)} % of the texts' tokens are unknown to "
            f"{backbone.name!r}, which can hardly read them; give --model one of their language"
        )
    if cut:
        lines.append(
            f"{cut} of {len(examples)} texts are cut: {backbone.name!r} reads "
            f"{backbone.max_length} tokens, its prompt among them"
        )
    return lines


def unfit(
    candidate: Candidate,
    kind: str,
    backbone: Backbone,
    pool: Mapping[str, torch.Tensor] | None = None,
) -> str:
    """Why the model cannot take the candidate's prompt, '' where it can or there is none.

    kind: `single` or `pair`. Template and words need not be there: the task's usual ones are tried.
    `CandidateError` for a head with a method that takes none, `TruncationError` for a prompt that
    is too long. pool: of a prompt that begins there.
    """
    import torch

    from autoprompt.learners.head import NOWHERE, read_state
    from autoprompt.models.backbone import ModelError
    from autoprompt.prompts.base import Origin

    prefix = prefix_of(candidate) if reads_head(candidate) else None
    method = prefix or learned_prompt(candidate)
    if method is None:
        return ""
    backbone.weights.reset()
    second = TEXTS[0] if kind == "pair" else None
    answer: Callable[[ModelInputs], torch.Tensor] = backbone.answer_states
    if prefix is not None:
        origin, count = NOWHERE, 0
        rows = [backbone.encode_plain(text, second, prefix.length) for text in TEXTS]
        answer = partial(read_state, backbone)
    else:
        placed = method.place(parse(manual.default_template(kind, onwards=backbone.reads_onwards)))
        rows = _rows(candidate, placed, second, backbone)
        origin = Origin((), ((rows[0].ids[-1],),), pool)
        count = slots(placed.template) + placed.lead
    try:
        prompt = method.start(backbone, origin, count, 0)
    except ModelError as error:
        return str(error).removeprefix("model: ")
    with backbone.exactly():
        states = answer(prompt.insert(backbone.batch(rows), backbone))
        if not states.requires_grad:
            return "no gradient reaches the prompt"
        # any direction but that of a sum or a norm, which normalised states do not change
        direction = torch.randn(states.shape, generator=torch.Generator().manual_seed(0))
        (states * direction.to(states.device)).sum().backward()
        gradients = [parameter.grad for parameter in prompt.parameters()]
        if any(g is None or not g.isfinite().all() for g in gradients):
            return "no finite gradient reaches the prompt"
        if max(float(g.abs().max()) for g in gradients if g is not None) < LEAST:
            return "the gradient of the prompt is zero"
        finished = prompt.finish()
        with torch.no_grad():
            together = answer(finished.insert(backbone.batch(rows), backbone))
            alone = answer(finished.insert(backbone.batch(rows[:1]), backbone))
            bare = answer(backbone.batch(rows[:1]))
    # the reference's dynamic prompts draw when they answer, and read padding: that was asked for
    quirky = candidate.get("fidelity", "sane") == "reference"
    if not quirky and float((alone - together[:1]).abs().max()) > APART:
        return "an answer depends on the padding beside it"
    if float((alone - bare).abs().max()) < LEAST:
        return "the prompt changes no answer"
    return ""


def _rows(
    candidate: Candidate, placed: Placed, second: str | None, backbone: Backbone
) -> list[Encoded]:
    try:
        return [
            backbone.encode(render(placed.template, text, second), 1, placed.lead, placed.reserve)
            for text in TEXTS
        ]
    except TruncationError:
        raise TruncationError(
            f"prompt_length: {candidate.get('prompt_length')} leaves no room for a text, as "
            f"{backbone.name!r} reads {backbone.max_length} tokens; use a shorter one"
        ) from None
