"""Templates of LM-BFF and OpenPrompt."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoprompt.text.imports import read_template
from autoprompt.text.template import TemplateError, parse


# hard_prompts.md section 3: the manual templates of LM-BFF, and a few of its generated ones
@pytest.mark.parametrize(
    ("source", "native"),
    [
        ("*cls**sent_0*_It_was*mask*.*sep+*", "{text} It was {mask}."),
        ("*cls**sent_0*_This_is*mask*.*sep+*", "{text} This is {mask}."),
        ("*cls**mask*:*+sent_0**sep+*", "{mask}: {text}"),
        (
            "*cls**sent-_0*?*mask*,*+sentl_1**sep+*",
            "{text|strip_final_punctuation}? {mask}, {text_b|lower_first}",
        ),
        ("*cls**sent_0**mask*,*+sentl_1**sep+*", "{text} {mask}, {text_b|lower_first}"),
        (
            "*cls**sent-_0*.*mask*,_you_are_right,*+sentl_1**sep+*",
            "{text|strip_final_punctuation}. {mask}, you are right, {text_b|lower_first}",
        ),
        ("*cls*_It_was*mask*.*+sentu_0**sep+*", " It was {mask}. {text|upper_first}"),
        (
            "*cls**sent_0*?*sep+**mask*,*+sentl-_1**sep+*",
            "{text}?{sep}{mask}, {text_b|strip_final_punctuation|lower_first}",
        ),
        ("*cls**sent_0*_{so}_it_was*mask*.*sep+*", "{text} {{so}} it was {mask}."),
    ],
)
def test_lm_bff(source: str, native: str) -> None:
    assert read_template(source) == parse(native)


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("*cls**sent_0*_*mask*.*sep+*", "'_'"),  # case 6
        ("*cls**sent_0*_It_was*mask*sssssssssss", "*sep+*"),
        ("*cls**sent_0*_It_was.*sep+*", "no {mask}"),
        ("*cls**sent_0**mask**mask*.*sep+*", "2 {mask}"),
        ("*cls**mask*.*sep+*", "no {text}"),
        ("*cls**sent_0**sent_0**mask*.*sep+*", "twice"),
        ("*cls**sent_0**mask*.*sep+**sent_2*_It_was.*sep+*", "sent_2"),
        ("*cls**sent_0**mask*.*sep+**sent_1*_It_was*label_0*.*sep+*", "label_0"),
        ("*cls**sent_0*<extra_id_1>*mask*.*sep+*", "extra_id_1"),
        ("*cls**sentx_0**mask*.**cls**sep+*", "*cls*"),
    ],
)
def test_lm_bff_damaged(source: str, reason: str) -> None:
    with pytest.raises(TemplateError) as caught:
        read_template(source)
    assert reason in str(caught.value)
    assert source in str(caught.value)


@pytest.mark.parametrize(
    ("source", "native"),
    [
        ('{"placeholder":"text_a"} It was {"mask"}.', "{text} It was {mask}."),
        (
            ' A {"mask"} news : {"placeholder":"text_a"} {"placeholder":"text_b"}',
            " A {mask} news : {text} {text_b}",
        ),
        (
            "[ Category : {'mask'} ] {'placeholder': 'text_a', 'shortenable': True}",
            "[ Category : {mask} ] {text}",
        ),
        ('{"placeholder":"text_a"} {"soft": None, "duplicate": 20} {"mask"}', None),
        (
            '{"placeholder":"text_a", "post_processing": lambda x:x.rstrip(string.punctuation)}?'
            ' {"mask"}, {"placeholder":"text_b"}',
            "{text|strip_final_punctuation}? {mask}, {text_b}",
        ),
        (
            '{"special":"<cls>"}{"placeholder":"text_a"}{"special": "<sep>"}{"mask"}, '
            '{"placeholder":"text_b"} {"special": "<eos>"}',
            "{text}{sep}{mask}, {text_b}",
        ),
        ('{"placeholder":"text_a"} {"text": "It was"} {"mask"}.', "{text} It was {mask}."),
    ],
)
def test_openprompt(source: str, native: str | None) -> None:
    assert read_template(source) == parse(native or "{text} {soft:20} {mask}")


@pytest.mark.parametrize(
    "source",
    [
        '{"meta":"title"} {"placeholder":"text_a"} {"mask"}',
        '{"placeholder":"text_a", "shortenable": False} {"mask"}',
        '{"placeholder":"text_a", "post_processing": lambda x: open("f")} {"mask"}',
        '{"placeholder":"text_a"} {"mask": __import__("os").system("true")}',
        '{"placeholder":"text_a"} {"soft": "some words"} {"mask"}',
        '{"placeholder":"text_a"} {"mask"',
        '{"placeholder":"text_a"} {"mask"} {"mask"}',
        '{"placeholder":"text_a"} {1: 2} {"mask"}',
        '{"placeholder":"text_c"} {"mask"}',
        '{"mask", "post_processing": lambda x:x.rstrip(string.punctuation)}'
        '{"placeholder":"text_a"}',
    ],
)
def test_openprompt_refuses_what_it_cannot_mean(source: str) -> None:
    with pytest.raises(TemplateError, match=r"^template: "):
        read_template(source)


def test_native_templates_stay_native() -> None:
    for source in ("{text} *mask* {mask}", '{{"mask"}} {text} {mask}', '"{text}" {mask}'):
        assert read_template(source) == parse(source)


@given(st.text(alphabet=st.sampled_from("{}*_|\"':, 1aN\\") | st.characters(), max_size=20))
def test_any_string_is_read_or_refused(noise: str) -> None:
    for source in (noise, '{"mask"}' + noise, "*cls*" + noise + "*sep+*", '{"' + noise + '"}'):
        try:
            template = read_template(source)
        except TemplateError:
            continue
        assert parse(str(template)) == template
