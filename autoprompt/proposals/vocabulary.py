"""The words of a tokenizer, as a reader sees them. Knows no model and no text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# English; they say how a sentence is built, not what it is about.
FUNCTION_WORDS = """
    about after again all also although among and another any anyone anything are around because
    been before being between both but can cannot could did does doing done down during each either
    else even ever every everyone everything few for from had has have having her here hers herself
    him himself his how however into its itself just like many may might more most much must myself
    neither never nor not nothing now off once one only onto other others our ours ourselves out
    over own per perhaps quite rather same she should since some someone something somewhat still
    such than that the their theirs them themselves then there these they this those though through
    thus too toward towards under until upon very was way well were what whatever when where
    whether which while who whole whom whose why will with within without would yet you your
    yours yourself yourselves don doesn didn isn wasn aren couldn wouldn shouldn hasn haven hadn
    won ain mr mrs inc
    a i s t an as at be by do go he if in is it me my no of on or so to up us we am
"""
STOP_WORDS = frozenset(FUNCTION_WORDS.split())
#: Swear words, and names of groups of people that a small sample may tie to any label: nobody wants
#: to read them in a prompt that was written for him. Whoever gives one as a label word has it.
UNASKED = frozenset(
    [
        "ass",
        "asshole",
        "bastard",
        "bitch",
        "cock",
        "cunt",
        "dick",
        "fag",
        "faggot",
        "fuck",
        "fucked",
        "fucking",
        "nigger",
        "piss",
        "porn",
        "pussy",
        "rape",
        "raped",
        "retarded",
        "shit",
        "slut",
        "suicide",
        "whore",
        "arab",
        "arabs",
        "christian",
        "christians",
        "gay",
        "gays",
        "gypsy",
        "hindu",
        "homosexual",
        "islam",
        "islamic",
        "jew",
        "jewish",
        "jews",
        "lesbian",
        "muslim",
        "muslims",
        "negro",
        "negroes",
        "transgender",
    ]
)


@dataclass(frozen=True, slots=True)
class Surface:
    """What a reader sees of one vocabulary piece; `text` is empty where that is nothing."""

    text: str
    starts_word: bool

    @property
    def is_word(self) -> bool:
        """A piece of letters only that begins a word (for WordPiece: not `##ing`)."""
        return self.starts_word and self.text.isalpha()


class Vocabulary:
    """Surfaces of a tokenizer's pieces, each worked out once.

    Found by behaviour, so that WordPiece, byte-level BPE and SentencePiece need no case of their
    own: a piece is decoded behind a known word, and begins a word when a space comes between.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = tokenizer
        self._anchor = tokenizer.tokenize("a") or ["a"]
        self._anchor_text = tokenizer.convert_tokens_to_string(self._anchor)
        self._special = frozenset(tokenizer.all_special_ids)
        self._known: dict[int, Surface] = {}
        self.ignores_case = tokenizer.tokenize("Word") == tokenizer.tokenize("word")

    def surface(self, token: int) -> Surface:
        """The surface of one token id; nothing readable for special and broken pieces."""
        found = self._known.get(token)
        if found is None:
            found = self._known[token] = self._decode(token)
        return found

    def _decode(self, token: int) -> Surface:
        piece = None if token in self._special else self.tokenizer.convert_ids_to_tokens(token)
        if not isinstance(piece, str):
            return Surface("", False)
        decoded = self.tokenizer.convert_tokens_to_string([*self._anchor, piece])
        if not decoded.startswith(self._anchor_text):
            return Surface("", False)
        rest = decoded[len(self._anchor_text) :]
        text = rest.strip()
        if "\ufffd" in text or not text.isprintable():
            return Surface("", False)
        return Surface(text, rest.startswith(" "))


def is_unspaced(text: str) -> bool:
    """Whether it holds Chinese characters, between which no space is written."""
    return any("\u3400" <= letter <= "\u9fff" or "\uf900" <= letter <= "\ufaff" for letter in text)


def is_readable(word: str) -> bool:
    """Whether a person takes this for a word: three letters, or one of a script without case."""
    return word.isalpha() and (len(word) >= 3 or word.lower() == word.upper())
