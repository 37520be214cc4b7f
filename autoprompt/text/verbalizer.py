"""Label words: which word stands for which label, and their ids. Knows tokens, not models."""

from __future__ import annotations

import difflib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from autoprompt.text.template import Piece
from autoprompt.text.tokens import tokenize_piece


class VerbalizerError(ValueError):
    """Label words that cannot serve; the message names the label, the word and the fix."""

    exit_code = 2


@dataclass(frozen=True, slots=True)
class Verbalizer:
    """One or more words for every label, in the order of the task's labels."""

    words: tuple[tuple[str, tuple[str, ...]], ...]

    def __post_init__(self) -> None:
        owner: dict[str, str] = {}
        if len(set(self.labels)) < len(self.labels):
            raise VerbalizerError(f"words: {self.labels} names a label twice; name each once")
        for label, words in self.words:
            if not words:
                raise VerbalizerError(f"words: label {label!r} has no word; give at least one")
            for word in words:
                if not word.strip():
                    raise VerbalizerError(
                        f"words: label {label!r} has an empty word; write {label}=word,word"
                    )
                if word != word.strip():
                    raise VerbalizerError(
                        f"words: {word!r} of label {label!r} has space around it; "
                        f"write {word.strip()!r} (the leading space is added where needed)"
                    )
                if word in owner:
                    raise VerbalizerError(_shared(word, owner[word], word, label))
                owner[word] = label

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels, in order."""
        return tuple(label for label, _ in self.words)

    def of(self, label: str) -> tuple[str, ...]:
        """The words of one label; KeyError when it is none of them."""
        return dict(self.words)[label]

    def to_json(self) -> str:
        """One canonical line: ``{"label":["word",...],...}``, labels in order."""
        plain = {label: list(words) for label, words in self.words}
        return json.dumps(plain, ensure_ascii=False, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> Verbalizer:
        """Read what `to_json` wrote; `VerbalizerError` for anything else."""
        try:
            pairs = json.loads(text, object_pairs_hook=tuple)
        except ValueError as problem:
            raise VerbalizerError(f"words: {text!r} is no JSON ({problem})") from None
        good = isinstance(pairs, tuple) and all(
            isinstance(words, list) and all(isinstance(word, str) for word in words)
            for _, words in pairs
        )
        if not good:
            raise VerbalizerError(
                f'words: {text!r} does not map labels to word lists; write {{"label":["word"]}}'
            )
        return cls(tuple((label, tuple(words)) for label, words in pairs))


@dataclass(frozen=True, slots=True)
class WordIds:
    """Token ids of a verbalizer: ids[label][word][token], labels and words in its order."""

    ids: tuple[tuple[tuple[int, ...], ...], ...]

    @property
    def multi_token(self) -> bool:
        """True as soon as one word has several tokens: all labels then need several masks."""
        return any(length > 1 for length in self.lengths)

    @property
    def lengths(self) -> tuple[int, ...]:
        """The distinct numbers of tokens of the words, smallest first."""
        return tuple(sorted({len(word) for words in self.ids for word in words}))


def parse_words(options: Sequence[str], labels: Sequence[str]) -> tuple[Verbalizer, ...]:
    """Verbalizers from options ``label=word,word``; a label given again starts the next one.

    `VerbalizerError` for an unknown or a missing label, an empty word, or a word of two labels.
    """
    groups: list[dict[str, tuple[str, ...]]] = []
    for option in options:
        label, words = _read_option(option, labels)
        if not groups or label in groups[-1]:
            groups.append({})
        groups[-1][label] = words
    for number, group in enumerate(groups, start=1):
        missing = [label for label in labels if label not in group]
        if missing:
            which = f" in set {number} of {len(groups)}" if len(groups) > 1 else ""
            raise VerbalizerError(
                f"words: label {missing[0]!r} has no words{which}; "
                f'add --words "{missing[0]}=word,word"'
            )
    return tuple(Verbalizer(tuple((label, group[label]) for label in labels)) for group in groups)


def split_words(text: str, labels: Sequence[str]) -> list[str]:
    """``a=x; b=y`` as the options ``a=x`` and ``b=y``. A label may hold a semicolon or an equals
    sign; a word may not hold a semicolon."""
    parts = []
    rest = text.strip()
    while rest:
        label = _label_of(rest, labels) or ""
        end = rest.find(";", len(label))
        part, rest = (rest, "") if end < 0 else (rest[:end].strip(), rest[end + 1 :].strip())
        if part:
            parts.append(part)
    return parts


def _label_of(option: str, labels: Sequence[str]) -> str | None:
    # The longest label that fits, because a label may itself hold an equals sign.
    fitting = [label for label in labels if option.startswith(f"{label}=")]
    return max(fitting, key=len, default=None)


def _read_option(option: str, labels: Sequence[str]) -> tuple[str, tuple[str, ...]]:
    label = _label_of(option, labels)
    if label is not None:
        return label, tuple(word.strip() for word in option[len(label) + 1 :].split(","))
    name, equals, _ = option.partition("=")
    if not equals:
        raise VerbalizerError(f"words: {option!r} has no equals sign; write label=word,word")
    near = difflib.get_close_matches(name.strip(), labels, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}? " if near else "use one of the data's labels "
    raise VerbalizerError(
        f"words: no label named {name!r}; {hint}(known: {', '.join(map(str, labels))})"
    )


def check_words(verbalizer: Verbalizer, tokenizer: Any, multi_token: str = "masks") -> WordIds:
    """Ids of every word as it stands inside a sentence (leading-space rule of the vocabulary).

    `multi_token` is "masks" (a word of several tokens is read at as many masks) or "refuse".
    `VerbalizerError` for a special token, an unknown token, a word that the vocabulary cannot
    write back, two words with the same ids, and several tokens under "refuse".
    """
    if multi_token not in ("masks", "refuse"):
        raise VerbalizerError(f"words.multi_token: {multi_token!r}; write masks or refuse")
    owner: dict[tuple[int, ...], tuple[str, str]] = {}
    table: list[tuple[tuple[int, ...], ...]] = []
    for label, words in verbalizer.words:
        row: list[tuple[int, ...]] = []
        for word in words:
            ids = _word_ids(tokenizer, label, word)
            if len(ids) > 1 and multi_token == "refuse":
                pieces = " ".join(map(str, tokenizer.convert_ids_to_tokens(list(ids))))
                raise VerbalizerError(
                    f"words: {word!r} of label {label!r} is {len(ids)} tokens ({pieces}); "
                    "choose a word of one token, or a masked model with words.multi_token = masks"
                )
            if ids in owner:
                other_word, other_label = owner[ids]
                raise VerbalizerError(_shared(other_word, other_label, word, label))
            owner[ids] = (word, label)
            row.append(ids)
        table.append(tuple(row))
    return WordIds(tuple(table))


def _word_ids(tokenizer: Any, label: str, word: str) -> tuple[int, ...]:
    where = f"words: {word!r} of label {label!r}"
    if word in tokenizer.all_special_tokens:
        raise VerbalizerError(f"{where} is a special token of the model; choose a word")
    ids = tokenize_piece(tokenizer, Piece("words", word, space_before=True))
    if not ids or tokenizer.unk_token_id in ids:
        raise VerbalizerError(f"{where} is unknown to the model's vocabulary; choose another word")
    written = tokenizer.decode(list(ids), clean_up_tokenization_spaces=False).strip()
    if tokenize_piece(tokenizer, Piece("words", written, space_before=True)) != ids:
        raise VerbalizerError(
            f"{where} comes back from the vocabulary as {written!r}; choose another word"
        )
    return ids


def _shared(word: str, label: str, other_word: str, other_label: str) -> str:
    same = "" if word == other_word else f" (the same tokens as {other_word!r})"
    if label == other_label:
        return f"words: label {label!r} has {word!r} twice{same}; give it once"
    return (
        f"words: {word!r}{same} is given for both {label!r} and {other_label!r}; "
        "give each label words of its own"
    )
