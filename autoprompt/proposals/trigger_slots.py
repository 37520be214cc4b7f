"""Trigger slots of a template and the tokens that may stand in them. Knows no model's answers.

A slot is a soft token of the template language until a word takes its place. A trigger is looked
for among ids, and used as the text of a template: so only tokens may stand there that, written out,
are read as exactly the ids that were searched.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from autoprompt.data.task import Example
from autoprompt.models.backbone import Backbone
from autoprompt.models.inputs import Encoded
from autoprompt.proposals.base import shortened
from autoprompt.proposals.vocabulary import Vocabulary
from autoprompt.text.placement import place, slots
from autoprompt.text.template import Part, Template, TemplateError, parse
from autoprompt.text.verbalizer import WordIds

#: cue: in the place of the words before the mask (AutoPrompt's own templates have none). The others
#: as in `text.placement`; before the model's first token there is no text.
POSITIONS = ("cue", "before_cue", "after_bos", "end", "split")


def place_trigger(template: Template, position: str, length: int) -> Template:
    """The template with `length` trigger slots at one of POSITIONS; its own `{soft:N}` stay."""
    if slots(template):
        return _spaced(template)
    if position == "cue":
        parts = list(template.parts)
        at = next(index for index, part in enumerate(parts) if part.kind == "mask")
        while at and parts[at - 1].kind == "literal":
            del parts[at - 1]
            at -= 1
        template, position = Template(tuple(parts)), "before_cue"
    return _spaced(place(template, position, length).template)


def _spaced(template: Template) -> Template:
    """Slots as words: a space before them and before the word or text behind them."""
    parts: list[Part] = []
    for part in template.parts:
        behind = bool(parts) and parts[-1].kind == "soft"
        punctuation = part.kind == "literal" and not part.literal[0].isalnum()
        space = part.kind == "soft" or (behind and part.kind != "sep" and not punctuation)
        parts.append(replace(part, space_before=True) if space else part)
    return Template(tuple(parts))


@dataclass(frozen=True, slots=True)
class Slotted:
    """A row with a trigger in it: where its tokens stand in what the model reads, and in what an
    encoder-decoder's decoder reads again ((): nowhere)."""

    row: Encoded
    slots: tuple[int, ...]
    decoder_slots: tuple[int, ...]

    def filled(self, tokens: Sequence[int]) -> Encoded:
        """The row with another trigger."""
        ids, decoder = list(self.row.ids), list(self.row.decoder)
        for place_, token in zip(self.slots, tokens, strict=True):
            ids[place_] = token
        # the last token of the row is not read again
        for place_, token in zip(self.decoder_slots, tokens, strict=False):
            decoder[place_] = token
        return replace(self.row, ids=tuple(ids), decoder=tuple(decoder))


class TriggerSlots:
    """The slots of one template for one model and its label words.

    Tokens that may stand there are lower-case whole words of letters, neither special nor a label
    word (AutoPrompt filters label tokens, special tokens and capitalised words).
    """

    def __init__(self, backbone: Backbone, template: Template, words: WordIds) -> None:
        self._backbone, self._template = backbone, template
        self.count = slots(template)
        if not self.count:
            raise TemplateError(
                f"template: {str(template)!r} has no place for a trigger; give a trigger_length or "
                "write {soft:N}"
            )
        self._vocabulary = Vocabulary(backbone.tokenizer)
        spelled = {token for label in words.ids for word in label for token in word}
        whole = (
            backbone.tokenizer.decode(list(word), clean_up_tokenization_spaces=False)
            for label in words.ids
            for word in label
        )
        self._answers = frozenset(spelled)
        self._answer_texts = {text.strip().lower() for text in whole}
        self._usable: dict[int, bool] = {}
        pair = any(part.kind == "text_b" for part in template.parts)
        self._probe = Example("a", "a" if pair else None)
        self._slotted = self._encode(template, self._probe, 1)
        kinds = [part.kind for part in template.parts]
        if backbone.reads_onwards and "soft" in kinds[kinds.index("mask") :]:
            raise TemplateError(
                f"template: {str(template)!r} has a trigger behind {{mask}}, where the causal "
                f"model {backbone.name!r} reads nothing; put it before the mask, as with "
                "trigger_position = before_cue"
            )

    def written(self, tokens: Sequence[int]) -> Template:
        """The template in words: the trigger as its text."""
        left = list(tokens)
        source = ""
        for part in self._template.parts:
            if part.kind == "soft":
                source += self._text(left[: part.length])
                del left[: part.length]
            else:
                source += str(Template((part,)))
        return parse(source)

    def reads_back(self, tokens: Sequence[int]) -> bool:
        """Whether the template in words is read as exactly these ids at the slots."""
        ids = list(self._slotted.ids)
        for place_, token in zip(self._slotted.soft, tokens, strict=True):
            ids[place_] = token
        return self._encode(self.written(tokens), self._probe, 1).ids == tuple(ids)

    def usable(self, token: int) -> bool:
        """Whether the token may stand in a trigger, whatever stands beside it."""
        known = self._usable.get(token)
        if known is None:
            known = self._usable[token] = token not in self._answers and self._is_word(token)
        return known

    def rows(self, examples: Iterable[Example], tokens: Sequence[int], masks: int) -> list[Slotted]:
        """Rows of a trigger that `reads_back`, each of its texts cut as all proposals' are."""
        written, found = self.written(tokens), []
        for example in examples:
            row = self._encode(written, example, masks)
            at = self._encode(self._template, example, masks).soft
            again = len(row.decoder) == len(row.ids)  # BART's decoder, one place later
            behind = tuple(one + 1 for one in at if one + 1 < len(row.ids)) if again else ()
            found.append(Slotted(row, at, behind))
        return found

    def _encode(self, template: Template, example: Example, masks: int) -> Encoded:
        return self._backbone.encode(shortened(template, example), masks)

    def _is_word(self, token: int) -> bool:
        surface = self._vocabulary.surface(token)
        text = surface.text
        # scripts without case are written without spaces, too
        begins = surface.starts_word or text.lower() == text.upper()
        lower = text == text.lower() and text not in self._answer_texts
        return text.isalpha() and begins and lower

    def _text(self, tokens: Sequence[int]) -> str:
        text = ""
        for token in tokens:
            surface = self._vocabulary.surface(token)
            text += " " * (surface.starts_word or not text) + surface.text
        return text
