"""The words of a model's vocabulary that may stand for labels. Knows no rows and no scores."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from autoprompt.data.task import Task
from autoprompt.models.backbone import Backbone
from autoprompt.proposals.vocabulary import STOP_WORDS, UNASKED, Vocabulary, is_readable
from autoprompt.text.manual import words as manual_words
from autoprompt.text.template import Piece
from autoprompt.text.tokens import tokenize_piece
from autoprompt.text.verbalizer import Verbalizer, VerbalizerError, check_words


class Lexicon:
    """The words of a vocabulary that may become label words, and those given for the labels.

    names: the token of each label's name, None where it is no single token of letters. given: the
    tokens of each label's usual words and of words given by hand, the name first.
    """

    def __init__(self, backbone: Backbone, task: Task, given: Sequence[Verbalizer] = ()) -> None:
        self._tokenizer = backbone.tokenizer
        self._vocabulary = Vocabulary(backbone.tokenizer)
        self._labels = task.labels
        self._usable: dict[int, bool] = {}
        manual = manual_words(task.labels, task.kind)
        self.names = tuple(self._name(manual[0].of(label)) for label in task.labels)
        self.given = tuple(
            self._single(word for verbalizer in (*manual, *given) for word in verbalizer.of(label))
            for label in task.labels
        )
        self._taken = {self.word(name).lower() for name in self.names if name is not None}

    def word(self, token: int) -> str:
        """The word that this token writes."""
        return self._vocabulary.surface(token).text

    def usable(self, token: int) -> bool:
        """Whether the token is a readable whole word that comes back as itself, and no name."""
        known = self._usable.get(token)
        if known is None:
            word = self.word(token)
            known = (
                self._vocabulary.surface(token).is_word
                and is_readable(word)
                and word.lower() not in STOP_WORDS | UNASKED
                and word.lower() not in self._taken
                and self._reads_back(token)
            )
            self._usable[token] = known
        return known

    def verbalizer(self, words: Sequence[Sequence[int]]) -> Verbalizer | None:
        """The verbalizer of these tokens; None where a class has none or the words cannot serve."""
        if not all(words):
            return None
        texts = [tuple(self.word(token) for token in tokens) for tokens in words]
        try:
            verbalizer = Verbalizer(tuple(zip(self._labels, texts, strict=True)))
            check_words(verbalizer, self._tokenizer, "refuse")
        except VerbalizerError:
            return None
        return verbalizer

    def _name(self, words: Sequence[str]) -> int | None:
        """The first word that is one token and of letters; labels such as "0" have none."""
        for word in words:
            ids = self._ids(word)
            if word.isalpha() and len(ids) == 1 and ids[0] != self._tokenizer.unk_token_id:
                return ids[0]
        return None

    def _single(self, words: Iterable[str]) -> tuple[int, ...]:
        """The words that are one token each, once."""
        ids = [self._ids(word) for word in words]
        return tuple(
            dict.fromkeys(one[0] for one in ids if len(one) == 1 and self._reads_back(*one))
        )

    def _reads_back(self, token: int) -> bool:
        """Whether the token, written out, is read as itself."""
        word = self.word(token)
        return bool(word) and self._ids(word) == (token,)

    def _ids(self, word: str) -> tuple[int, ...]:
        return tokenize_piece(self._tokenizer, Piece("words", word, space_before=True))
