"""Pieces of a prompt to token ids. Knows tokenizers by behaviour, not by class or model name."""

from __future__ import annotations

import re
from typing import Any
from weakref import WeakKeyDictionary

from autoprompt.text.template import Piece, Template

# Ordinary words; whichever of them the vocabulary holds shows how it marks the start of a word.
_PROBES = ("a", "the", "great", "in")
# JSON can smuggle half a character in ("\ud800"), which no tokenizer accepts.
_HALF_CHARACTER = re.compile("[\ud800-\udfff]")
_SENTINEL = re.compile(r"▁?<extra_id_(\d+)>")
_sentinels: WeakKeyDictionary[Any, tuple[int, ...]] = WeakKeyDictionary()
_leading_space: WeakKeyDictionary[Any, bool] = WeakKeyDictionary()


def needs_leading_space(tokenizer: Any) -> bool:
    """True when " word" and "word" are different tokens, as in byte-level BPE.

    Such vocabularies (RoBERTa, GPT-2, ModernBERT) hold a word inside a sentence with the space
    before it. Found by trying, because classes and the `add_prefix_space` argument changed their
    meaning between versions of `transformers`.
    """
    known = _leading_space.get(tokenizer)
    if known is None:
        known = any(_encode(tokenizer, " " + p) != _encode(tokenizer, p) for p in _PROBES)
        _leading_space[tokenizer] = known
    return known


def tokenize_piece(tokenizer: Any, piece: Piece) -> tuple[int, ...]:
    """Ids of one piece of words, cut to its own limit, without special tokens.

    A special token written in the words ("<mask>", "[SEP]") becomes ordinary pieces, never its id,
    so that the prompt's own mask stays the only one. Mask, soft and sep pieces have no words and
    give no ids: whoever builds the model's input inserts those by id.
    """
    if piece.kind != "words" or not piece.text:
        return ()
    text = piece.text
    if piece.space_before and needs_leading_space(tokenizer):
        text = " " + text
    return _without_special(tokenizer, text)[: piece.limit]


def is_writable(tokenizer: Any, template: Template) -> bool:
    """Whether the vocabulary has all of the template's own words."""
    return all(
        tokenizer.unk_token_id not in tokenize_piece(tokenizer, Piece("words", part.literal))
        for part in template.parts
        if part.kind == "literal"
    )


def sentinel_ids(tokenizer: Any) -> tuple[int, ...]:
    """The ids of T5's signs for gaps, `<extra_id_0>` first; () in a vocabulary without them.

    mT5's vocabulary has them as words of their own, with the sign for a space before them.
    """
    known = _sentinels.get(tokenizer)
    if known is None:
        found = ((_SENTINEL.fullmatch(name), id) for name, id in tokenizer.get_vocab().items())
        numbered = {int(match[1]): id for match, id in found if match}
        known = tuple(numbered[number] for number in sorted(numbered))
        _sentinels[tokenizer] = known
    return known


def whole_characters(text: str) -> str:
    """The text with a sign for every half of a character, which no tokenizer accepts."""
    return _HALF_CHARACTER.sub("\ufffd", text)


def _encode(tokenizer: Any, text: str) -> tuple[int, ...]:
    encoded = tokenizer(
        whole_characters(text),
        add_special_tokens=False,
        split_special_tokens=True,
        padding=False,
        truncation=False,
        return_attention_mask=False,
        return_token_type_ids=False,
        verbose=False,
    )
    return tuple(encoded["input_ids"])


def _without_special(tokenizer: Any, text: str) -> tuple[int, ...]:
    ids = _encode(tokenizer, text)
    unknown = tokenizer.unk_token_id
    special = {i for i in tokenizer.all_special_ids if i != unknown} | {*sentinel_ids(tokenizer)}
    if special.isdisjoint(ids):
        return ids
    # A Unigram vocabulary lists its special tokens beside its words and finds them again in the
    # text. Breaking each after its first character leaves nothing to find.
    names = sorted(tokenizer.all_special_tokens, key=len, reverse=True)
    pattern = "|".join(re.escape(name) for name in names if len(name) > 1)
    cuts = [match.start() + 1 for match in re.finditer(pattern, text)] if pattern else []
    stretches = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    broken = (i for stretch in stretches for i in _encode(tokenizer, stretch))
    return tuple(i for i in broken if i not in special)
