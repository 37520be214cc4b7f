"""The literature's prompts: all can be used, and words find the labels of the data."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoprompt.text.imports import read_template, read_templates
from autoprompt.text.published import Published, find, is_name, prompts, spell_out
from autoprompt.text.template import TemplateError, check_template, parse
from autoprompt.text.verbalizer import Verbalizer, VerbalizerError, parse_words

SST2 = ["lmbff:sst2"]


@pytest.mark.parametrize("one", prompts(), ids=lambda one: one.name)
def test_every_prompt_can_be_used(one: Published) -> None:
    template = read_template(one.name)
    check_template(template, one.kind)
    assert parse(str(template)) == template
    assert is_name(one.name)
    assert one in find(one.group, TemplateError)
    labels = [label for label, _ in one.words]
    first = parse_words(spell_out([one.name], labels), labels)[0]
    assert first == Verbalizer(tuple((label, (word,)) for label, word in one.words))


# hard_prompts.md section 3
@pytest.mark.parametrize(
    ("name", "native", "words"),
    [
        ("lmbff:sst2", "{text} It was {mask}.", "terrible great"),
        ("lmbff:sst5", "{text} It was {mask}.", "terrible bad okay good great"),
        ("lmbff:trec", "{mask}: {text}", "Description Entity Expression Human Location Number"),
        (
            "lmbff:snli",
            "{text|strip_final_punctuation}? {mask}, {text_b|lower_first}",
            "No Yes Maybe",
        ),
        ("lmbff:qqp", "{text} {mask}, {text_b|lower_first}", "No Yes"),
        ("pet:ag_news/4", " [ Category: {mask} ] {text} {text_b}", "World Sports Business Tech"),
        ("pet:ag_news_joined/0", "{mask} : {text}", "World Sports Business Tech"),
        ("pet:mnli/1", " {text|strip_final_punctuation} ?{sep}{mask} , {text_b}", None),
        ("pet:mnli/1", None, "Wrong Right Maybe"),
        ("pet:mnli/3", None, "No Yes Maybe"),
        ("pet:cb/4", " {text} question: {text_b} true, false or neither? answer: {mask}", None),
        ("pet:cb/4", None, "false true neither"),
        ("pet:boolq/5", None, "false true"),
        ("openprompt:imdb/1", " Just {mask} ! {text}", "bad good"),
    ],
)
def test_as_published(name: str, native: str | None, words: str | None) -> None:
    (one,) = find(name, TemplateError)
    if native is not None:
        assert read_template(name) == parse(native)
    if words is not None:
        assert [word for _, word in one.words] == words.split()


@pytest.mark.parametrize("name", ["LMBFF:SST2", "Pet:MNLI/1"])
def test_the_case_of_a_name_says_nothing(name: str) -> None:
    assert is_name(name)
    assert read_template(name) == read_template(name.lower())
    with pytest.raises(TemplateError, match="'LMBFF:sst22'; did you mean 'lmbff:sst2'"):
        find("LMBFF:sst22", TemplateError)


def test_a_name_of_several_is_all_of_them_where_several_are_wanted() -> None:
    assert len(read_templates("pet:ag_news")) == 6
    assert read_templates(" lmbff:sst2 ") == (parse("{text} It was {mask}."),)
    assert read_templates("{text} {mask}") == (parse("{text} {mask}"),)
    with pytest.raises(
        TemplateError, match=r"'pet:rte' names 5 templates; choose one of pet:rte/0"
    ):
        read_template("pet:rte")


@pytest.mark.parametrize("name", ["lmbff:sst22", "lmbff:sst-2", "pet:rte/7", "openprompt:agnews"])
def test_an_unknown_name_is_told_the_nearest(name: str) -> None:
    near = {
        "lmbff:sst22": "lmbff:sst2",
        "lmbff:sst-2": "lmbff:sst2",
        "pet:rte/7": "pet:rte",
        "openprompt:agnews": "ag_news",
    }
    for use in (read_template, read_templates):
        with pytest.raises(TemplateError, match=f"no published prompt named '{name}'") as caught:
            use(name)
        assert near[name] in str(caught.value)
    with pytest.raises(VerbalizerError, match="did you mean"):
        spell_out([name], ["yes", "no"])


@pytest.mark.parametrize(
    ("name", "labels", "words"),
    [
        ("lmbff:sst2", ("positive", "negative"), "great terrible"),
        ("lmbff:sst2", ("POS", "NEG"), "great terrible"),
        ("lmbff:sst2", ("good", "bad"), "great terrible"),
        ("lmbff:sst5", ("neutral", "very_positive", "Negative"), "okay great bad"),
        ("lmbff:trec", ("ABBR", "ENTY", "DESC", "NUM"), "Expression Entity Description Number"),
        ("lmbff:trec", ("numeric", "human"), "Number Human"),
        ("lmbff:mnli", ("entails", "contradicts", "unknown"), "Yes No Maybe"),
        ("lmbff:rte", ("NotEntailment", "entailment"), "No Yes"),
        ("lmbff:rte", ("no", "yes"), "No Yes"),
        ("pet:rte/4", ("True", "False"), "true false"),
        ("pet:ag_news", ("Tech", "World"), "Tech World"),
        ("openprompt:ag_news", ("Sci/Tech", "sports"), "technology sports"),
        ("pet:yelp_full", ("5 star", "1 star"), "great terrible"),
        ("lmbff:cola", ("grammatical", "ungrammatical"), "correct incorrect"),
    ],
)
def test_words_find_the_labels_by_name_abbreviation_or_meaning(
    name: str, labels: Sequence[str], words: str
) -> None:
    first = parse_words(spell_out([name], labels), labels)[0]
    assert [one for label in labels for one in first.of(label)] == words.split()


@pytest.mark.parametrize(
    ("name", "labels", "reason"),
    [
        ("lmbff:sst2", ("0", "1"), "no label like '0'"),  # which is which differs between files
        ("lmbff:sst2", ("positive", "mixed"), "no label like 'mixed'"),
        ("lmbff:sst2", ("positive", "good"), "one label for 'positive' and 'good'"),
        ("lmbff:trec", ("positive", "negative"), "no label like 'positive'"),
        ("lmbff:sst2", ("-1", "+1"), "no label like '-1'"),
    ],
)
def test_what_does_not_fit_is_named(name: str, labels: Sequence[str], reason: str) -> None:
    with pytest.raises(VerbalizerError, match=reason) as caught:
        spell_out([name], labels)
    assert f'--words "{labels[0]}=word"' in str(caught.value)
    assert name in str(caught.value)


def test_a_group_gives_every_set_of_words_once_and_other_options_stay() -> None:
    labels = ["contradiction", "entailment", "neutral"]
    own = [f"{label}=w{number}" for number, label in enumerate(labels)]
    found = parse_words(spell_out([*own, "pet:mnli"], labels), labels)
    assert [one.of("entailment") for one in found] == [("w1",), ("Right",), ("Yes",)]


@given(st.lists(st.text(min_size=1, max_size=12), min_size=1, max_size=4, unique=True))
def test_any_labels_get_words_of_their_own_or_an_error(labels: list[str]) -> None:
    for name in ("lmbff:sst5", "pet:yahoo", "lmbff:mnli"):
        try:
            options = spell_out([name], labels)
        except VerbalizerError:
            continue
        assert parse_words(options, labels)[0].labels == tuple(labels)
