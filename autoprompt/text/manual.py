"""Prompts written by people: templates by task kind, words by label names. Knows no model.

The forms are those of PET (Schick & Schütze 2021), LM-BFF (Gao et al. 2021) and OpenPrompt (Ding
et al. 2022), made general where they named one data set.
"""

from __future__ import annotations

import re
import string
from collections.abc import Mapping, Sequence

from autoprompt.text.template import ends_with_mask, parse
from autoprompt.text.verbalizer import Verbalizer

_SINGLE = (
    "{text} It was {mask}.",
    "{text} This is {mask}.",
    "{mask}: {text}",
    "{text} All in all, it was {mask}.",
    "[Category: {mask}] {text}",
    "{text} This topic is about {mask}.",
    "{mask} question: {text}",
    "{mask} news: {text}",
    "{text} In summary, it is {mask}.",
    "{text} ({mask})",
    "Just {mask}! {text}",
)
_PAIR = (
    "{text|strip_final_punctuation}? {mask}, {text_b|lower_first}",
    '"{text|strip_final_punctuation}"?{sep}{mask}, "{text_b}"',
    "{text|strip_final_punctuation}?{sep}{mask}, {text_b}",
    '"{text_b|strip_final_punctuation}"?{sep}{mask}, "{text}"',
    "{text_b|strip_final_punctuation}?{sep}{mask}, {text}",
    "{text_b|strip_final_punctuation}?{sep}{mask}. {text}",
    "{text} {mask}, {text_b|lower_first}",
    "{text} Question: {text_b} True or False? Answer: {mask}.",
    "{text} Question: {text_b|strip_final_punctuation}? Answer: {mask}.",
    "{text} Based on the previous passage, {text_b|lower_first|strip_final_punctuation}? {mask}.",
)

_Guess = dict[str, tuple[str, ...]]
_Words = Mapping[str, str]

# A label set serves a meaning when each of its names is known to it. The answers of a meaning are
# tried in this order. PET and LM-BFF published them for these meanings.
_POLARITY = {
    "very negative": "--",
    "terrible": "--",
    "awful": "--",
    "1 star": "--",
    "1 stars": "--",
    "one star": "--",
    "negative": "-",
    "neg": "-",
    "bad": "-",
    "-": "-",
    "somewhat negative": "-",
    "2 star": "-",
    "2 stars": "-",
    "two stars": "-",
    "neutral": "0",
    "neu": "0",
    "mixed": "0",
    "okay": "0",
    "3 star": "0",
    "3 stars": "0",
    "three stars": "0",
    "positive": "+",
    "pos": "+",
    "good": "+",
    "+": "+",
    "somewhat positive": "+",
    "4 star": "+",
    "4 stars": "+",
    "four stars": "+",
    "very positive": "++",
    "great": "++",
    "excellent": "++",
    "5 star": "++",
    "5 stars": "++",
    "five stars": "++",
}
_COARSE_POLARITY: tuple[_Words, ...] = (
    {"-": "terrible", "0": "okay", "+": "great"},
    {"-": "bad", "0": "okay", "+": "good"},
    {"-": "negative", "0": "neutral", "+": "positive"},
)
_FINE_POLARITY: tuple[_Words, ...] = (
    {"--": "terrible", "-": "bad", "0": "okay", "+": "good", "++": "great"},
)
_INFERENCE = {
    "entailment": "yes",
    "entails": "yes",
    "entailed": "yes",
    "not entailment": "no",
    "non entailment": "no",
    "contradiction": "no",
    "contradicts": "no",
    "neutral": "maybe",
    "unknown": "maybe",
}
_AGREEMENT = {
    "yes": "yes",
    "true": "yes",
    "correct": "yes",
    "right": "yes",
    "equivalent": "yes",
    "duplicate": "yes",
    "paraphrase": "yes",
    "no": "no",
    "false": "no",
    "incorrect": "no",
    "wrong": "no",
    "maybe": "maybe",
    "neither": "maybe",
}
_ANSWERS: tuple[_Words, ...] = (
    {"yes": "Yes", "no": "No", "maybe": "Maybe"},
    {"yes": "Right", "no": "Wrong", "maybe": "Maybe"},
    {"yes": "true", "no": "false", "maybe": "neither"},
)
_ACCEPTABILITY = {"acceptable": "+", "grammatical": "+", "unacceptable": "-", "ungrammatical": "-"}
_CORRECTNESS: tuple[_Words, ...] = ({"+": "correct", "-": "incorrect"},)
# What a text is, and what a second text answers about the first.
_Meaning = tuple[Mapping[str, str], tuple[_Words, ...]]
_STATED: tuple[_Meaning, ...] = (
    (_POLARITY, _COARSE_POLARITY),
    (_POLARITY, _FINE_POLARITY),
    (_INFERENCE, _ANSWERS),
    (_ACCEPTABILITY, _CORRECTNESS),
)
_ASKED: tuple[_Meaning, ...] = ((_AGREEMENT, _ANSWERS),)

# What stands behind abbreviated or technical label names; several words share the label.
_NATURAL = {
    "abbr": "expression",
    "abbreviation": "expression",
    "admin": "administration",
    "auth": "login",
    "biz": "business",
    "comp": "computer",
    "desc": "description",
    "edu": "education",
    "enty": "entity",
    "env": "environment",
    "fin": "finance",
    "ham": "normal",
    "how to": "help",
    "hum": "human",
    "info": "information",
    "loc": "location",
    "med": "medicine",
    "misc": "other",
    "num": "number",
    "numeric": "number",
    "obj": "objective",
    "org": "organization",
    "per": "person",
    "pol": "politics",
    "rec": "recreation",
    "rel": "religion",
    "sci": "science",
    "subj": "subjective",
    "tech": "technology",
}
_SEPARATORS = re.compile(rf"[\s{re.escape(string.punctuation)}]+")
_NEGATIONS = ("not", "non", "no")
_PREPOSITIONS = ("at", "by", "for", "from", "in", "of", "on", "to", "with")
_EMPTY_WORDS = frozenset(
    {"a", "an", "and", "is", "it", "or", "that", "the", "this", *_PREPOSITIONS}
)


def templates(kind: str) -> tuple[str, ...]:
    """Template sources for tasks of this kind ("single" or "pair"), most general first."""
    return _PAIR if kind == "pair" else _SINGLE


def default_template(kind: str, *, onwards: bool = False) -> str:
    """The template to begin with; `onwards`: of a model that reads no text behind the mask."""
    return next(
        source for source in templates(kind) if not onwards or ends_with_mask(parse(source))
    )


def bare_template(kind: str) -> str:
    """A template without a word, for a vocabulary that none of the others can be written in."""
    return "{text} {text_b} {mask}" if kind == "pair" else "{text} {mask}"


def words(labels: Sequence[str], kind: str) -> tuple[Verbalizer, ...]:
    """Verbalizers guessed from label names, best guess first, never empty.

    Known meanings (polarity, inference, yes/no, acceptability) give the words published for them;
    any other set gives its names, split and written out. Names without letters stay as they are.
    kind: "single" or "pair". Of a single text nothing is asked that yes and no could answer, so
    they come last there: ``spam`` and ``not_spam`` begin with their names.
    """
    split = {label: _split(label) for label in labels}
    answers = _by_meaning(
        labels, (*_ASKED, (_negation([_plain(name) for name in labels]), _ANSWERS))
    )
    guesses = _by_meaning(labels, _STATED)
    if kind == "pair":
        guesses += answers
    if not any(character.isalpha() for label in labels for character in label):
        guesses.append({label: (label.strip(),) for label in labels})
    else:
        lower = {label: [name.lower() for name in split[label]] for label in labels}
        written_out = {label: _written_out(lower[label]) for label in labels}
        as_given = {label: [_in_given_case(n) for n in split[label]] for label in labels}
        guesses += [_by_name(labels, way) for way in (written_out, lower, as_given)]
    if kind == "single":
        guesses += answers
    found: list[Verbalizer] = []
    for guess in guesses:
        if not _distinct(guess):
            continue
        verbalizer = Verbalizer(tuple((label, guess[label]) for label in labels))
        if verbalizer not in found:
            found.append(verbalizer)
    return tuple(found) or (Verbalizer(tuple((label, (label.strip(),)) for label in labels)),)


def readings(label: str) -> tuple[frozenset[str], ...]:
    """What tells that two label names mean the same, the surest first: the name in lower case, its
    words apart; with abbreviations written out (``ABBR`` is "expression"); and what it says in a
    label set of known meaning (``pos`` and ``positive`` the same). Empty where nothing is known."""
    name = _plain(label)
    tables = (_POLARITY, _INFERENCE, _AGREEMENT, _ACCEPTABILITY)
    senses = {f"{n} {table[name]}" for n, table in enumerate(tables) if name in table}
    written_out = " ".join(_written_out(name.split()))
    return frozenset({name}), frozenset({written_out}), frozenset(senses)


def _plain(label: str) -> str:
    return " ".join(_split(label)).lower()


def _split(label: str) -> list[str]:
    """The words of a name: ``Sci/Tech``, ``not_entailment``, ``NaturalPlace``, ``card-lost``."""
    spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", " ", label)
    # Not \w: in many scripts it would cut words at their vowel signs.
    return [name for name in _SEPARATORS.split(spaced) if name] or [label.strip()]


def _by_meaning(labels: Sequence[str], meanings: Sequence[_Meaning]) -> list[_Guess]:
    """The words published for the first meaning that all the names have."""
    names = {label: _plain(label) for label in labels}
    for meaning, answers in meanings:
        senses = [meaning.get(name) for name in names.values()]
        served = all(sense in answers[0] for sense in senses)
        if served and len(set(senses)) == len(senses):
            return [
                {label: (guess[meaning[names[label]]],) for label in labels} for guess in answers
            ]
    return []


def _negation(names: Sequence[str]) -> Mapping[str, str]:
    """``duplicate`` and ``not duplicate`` (or ``non``, ``no``) answer yes and no."""
    for name in names:
        for other in names:
            if name in [f"{negation} {other}" for negation in _NEGATIONS]:
                return {other: "yes", name: "no"}
    return {}


def _written_out(names: Sequence[str]) -> list[str]:
    whole = _NATURAL.get(" ".join(names))
    return [whole] if whole else [_NATURAL.get(name, name) for name in names]


def _in_given_case(name: str) -> str:
    natural = _NATURAL.get(name.lower())
    if natural is None:
        return name
    return natural.capitalize() if name[0].isupper() else natural


def _by_name(
    labels: Sequence[str], split: Mapping[str, Sequence[str]]
) -> dict[str, tuple[str, ...]]:
    """The telling words of each name: no articles, nothing that another label says too."""
    result: dict[str, tuple[str, ...]] = {}
    for label in labels:
        others = {w.lower() for other in labels if other != label for w in split[other]}
        telling = [
            word
            for word in dict.fromkeys(split[label])
            if word.lower() not in others and word.lower() not in _EMPTY_WORDS
        ]
        negated = any(word.lower() in _NEGATIONS for word in split[label])
        if telling and not negated:
            result[label] = tuple(telling)
        else:
            result[label] = (" ".join(split[label]),)
    return result


def _distinct(guess: Mapping[str, tuple[str, ...]]) -> bool:
    every = [word.lower() for given in guess.values() for word in given]
    return all(every) and len(set(every)) == len(every)
