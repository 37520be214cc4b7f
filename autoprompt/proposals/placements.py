"""Where the words of a template may stand, and which. Knows pieces and tokens, no model."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from autoprompt.data.task import Example
from autoprompt.proposals.base import shortened
from autoprompt.proposals.vocabulary import STOP_WORDS, Vocabulary, is_unspaced
from autoprompt.text.template import Piece, Template, TemplateError, check_template, parse
from autoprompt.text.tokens import tokenize_piece
from autoprompt.text.verbalizer import Verbalizer

FILLING_TOKENS = 24
#: Marks of scripts without spaces, which none follows either.
WIDE_MARKS = "。，、：；！？"
MARKS = frozenset(".,:;!?-" + WIDE_MARKS)
SENTENCE_ENDS = frozenset(".;!?。；！？")
FULL_STOPS = (".", "。")
LONGEST_COPY = 4  # characters of a word in a script without spaces
# Words that wait for another: no sentence ends with them.
WAITING = "a an and as at but by for from if in of on or than that the to with"
DANGLING = frozenset(WAITING.split())


@dataclass(frozen=True, slots=True)
class Shape:
    """How many words are filled before and after the label word, and whether a full stop closes
    them. Where none does, the last word may be a punctuation mark."""

    before: int
    after: int
    closed: bool = False


@dataclass(frozen=True, slots=True)
class Placement:
    """Where label word and filled words stand beside the text(s); `{mask}` stands for all of them.

    Cheap shapes come first, since time may run out.
    """

    name: str
    kind: str
    source: str
    shapes: tuple[Shape, ...]

    @property
    def leads(self) -> bool:
        """Whether the label word and its words come first."""
        return self.source.startswith("{mask}")

    @property
    def joins(self) -> bool:
        """Whether they stand inside one sentence with both texts."""
        return "lower_first" in self.source


BEHIND = (
    Shape(2, 0, True),
    Shape(1, 0, True),
    Shape(1, 1, True),
    Shape(3, 0, True),
    Shape(2, 1, True),
)
PLACEMENTS = (
    Placement("after", "single", "{text} {mask}", (*BEHIND, Shape(4, 0, True), Shape(5, 0, True))),
    Placement(
        "before",
        "single",
        "{mask} {text}",
        (Shape(2, 0, True), Shape(1, 1), Shape(2, 1), Shape(3, 0, True), Shape(1, 2)),
    ),
    Placement(
        "between",
        "pair",
        "{text|strip_final_punctuation} {mask} {text_b|lower_first}",
        (Shape(1, 1), Shape(1, 2), Shape(2, 1), Shape(2, 2), Shape(2, 3)),
    ),
    Placement("after", "pair", "{text} {text_b} {mask}", BEHIND),
)


def slotted(
    placement: Placement, shape: Shape, example: Example, verbalizer: Verbalizer, stop: str
) -> tuple[Piece, ...]:
    """The pieces of an example with its label word, and a mask for every word to be filled."""
    word = verbalizer.of(example.label or "")[0]
    span = [Piece("mask")] * shape.before
    span.append(Piece("words", word, space_before=True))
    span += [Piece("mask")] * shape.after
    if shape.closed and stop:
        span.append(Piece("words", stop))
    pieces: list[Piece] = []
    for piece in shortened(parse(placement.source), example, FILLING_TOKENS):
        pieces += span if piece.kind == "mask" else [piece]
    return tuple(pieces)


class Words:
    """Which tokens may stand in which slot, and what ends a sentence ("" where the vocabulary has
    no full stop).

    Refused: pieces that are neither a whole word nor a punctuation mark, label words, content words
    that only texts of one class hold (a copy, not a frame), a word twice, marks out of place.
    """

    def __init__(self, vocabulary: Vocabulary, verbalizer: Verbalizer) -> None:
        self.vocabulary = vocabulary
        self._answers = {
            word.lower() for label in verbalizer.labels for word in verbalizer.of(label)
        }
        self._classes: dict[str, set[str | None]] = {}
        unspaced = is_unspaced("".join(self._answers))
        self.stop = FULL_STOPS[unspaced] if self._knows(FULL_STOPS[unspaced]) else ""

    def _knows(self, text: str) -> bool:
        tokenizer = self.vocabulary.tokenizer
        return tokenizer.unk_token_id not in tokenize_piece(tokenizer, Piece("words", text))

    def learn(self, sample: Sequence[Example]) -> None:
        """Note which classes' texts hold which words."""
        for example in sample:
            for run in re.findall(r"\w+", f"{example.text} {example.text_b or ''}".lower()):
                for word in _copies(run):
                    self._classes.setdefault(word, set()).add(example.label)

    def texts(self, tokens: Sequence[int | None]) -> list[str]:
        """The words of whole fillings."""
        return [self.vocabulary.surface(token).text for token in tokens if token is not None]

    def may_stand(
        self,
        token: int,
        slot: int,
        tokens: Sequence[int | None],
        placement: Placement,
        shape: Shape,
    ) -> bool:
        """Whether this token may fill this slot beside the tokens already there."""
        surface = self.vocabulary.surface(token)
        if surface.text in MARKS:
            return self._mark_may_stand(surface.text, slot, tokens, placement, shape)
        word = surface.text.lower()
        if not surface.is_word or token in tokens:
            return False
        is_last = slot >= shape.before and slot == len(tokens) - 1
        if is_last and word in DANGLING and not placement.joins:
            return False
        for answer in self._answers:
            if word == answer or (len(word) > 3 and (word in answer or answer in word)):
                return False
        return word in STOP_WORDS or len(self._classes.get(word, ())) != 1

    def _mark_may_stand(
        self,
        mark: str,
        slot: int,
        tokens: Sequence[int | None],
        placement: Placement,
        shape: Shape,
    ) -> bool:
        """One mark a side of the label word: behind the text, next to the word, or at the end."""
        in_front = slot < shape.before
        side = tokens[: shape.before] if in_front else tokens[shape.before :]
        if any(text in MARKS for text in self.texts(side)):
            return False
        if not in_front:
            return not shape.closed and slot == len(tokens) - 1
        if slot == 0 and not placement.leads:
            return True
        return slot == shape.before - 1 and slot > 0 and mark not in SENTENCE_ENDS


def _copies(run: str) -> set[str]:
    """What a word of a template may have been copied from: the word, or, in a script without
    spaces, any few of its characters."""
    if not is_unspaced(run):
        return {run}
    ends = range(1, LONGEST_COPY + 1)
    return {run[start : start + size] for start in range(len(run)) for size in ends}


def to_template(
    placement: Placement, shape: Shape, texts: Sequence[str], words: Words
) -> Template | None:
    """The template of a whole filling; None where it breaks a rule of the template language."""
    front, back = list(texts[: shape.before]), list(texts[shape.before :])
    if (shape.closed or (placement.leads and back[-1] not in MARKS)) and words.stop:
        back.append(words.stop)
    if words.vocabulary.ignores_case and not placement.joins and front[0] not in ",;-":
        first = 1 if front[0] in MARKS and len(front) > 1 else 0
        front[first] = front[first][:1].upper() + front[first][1:]
    span = ""
    for text in (*front, "{mask}", *back):
        unspaced = is_unspaced(text) or is_unspaced(span[-1:]) or span[-1:] in tuple(WIDE_MARKS)
        span += text if text in MARKS or unspaced else f" {text}"
    left, _, right = placement.source.partition("{mask}")
    source = f"{left.rstrip()}{span}{right}".strip()
    try:
        template = parse(source)
        check_template(template, placement.kind)
    except TemplateError:
        return None
    return template
