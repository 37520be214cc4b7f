"""Templates of LM-BFF, PET and OpenPrompt."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoprompt.text.imports import read_template
from autoprompt.text.template import TemplateError, check_template, parse


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


@pytest.mark.parametrize(
    ("source", "named"),
    [
        (
            '{"meta":"title"} {"placeholder":"text_a"} {"mask"}',
            "'meta' in the piece {meta: 'title'",
        ),
        ('{"placeholder":"text_a", "shortenable": False} {"mask"}', "'shortenable'"),
        ('{"text":"So", "post_processing":"mlp"} {"placeholder":"text_a"} {"mask"}', "'mlp'"),
        ('{"placeholder":"text_a"} {"soft": "It was"} {"mask"}', "'soft' in the piece"),
        ('{"placeholder":"text_a"} {"soft": None, "soft_id": 1} {"mask"}', "'soft_id'"),
        ('{"placeholder":"text_a"} {"soft": None, "duplicate": 0} {"mask"}', "'duplicate'"),
        ('{"placeholder":"text_a"} {"soft": None, "duplicate": True} {"mask"}', "'duplicate'"),
        ('{"soft": None, "duplicate": 9, "same": True} {"mask"}', "'same' in the piece"),
        ('{"placeholder":"text_a"} {"special": "<wow>"} {"mask"}', "'special'"),
    ],
)
def test_openprompt_names_the_part_that_it_cannot_take(source: str, named: str) -> None:
    with pytest.raises(TemplateError) as caught:
        read_template(source)
    assert named in str(caught.value)
    assert source in str(caught.value)


# hard_prompts.md section 3: PET's patterns
@pytest.mark.parametrize(
    ("source", "native"),
    [
        ("pet:M : a b", "{mask} : {text} {text_b}"),
        ("pet:It was M . a", " It was {mask} . {text}"),
        ("pet:Just M ! || a", " Just {mask} !{sep} {text}"),
        ('pet:" a " ? || M , " b "', ' " {text} " ?{sep}{mask} , " {text_b} "'),
        ('pet:" | b | " ? || M | , " | a | "', ' " {text_b} " ?{sep}{mask} , " {text} "'),
        ("pet: [ Category: M ] a b ", " [ Category: {mask} ] {text} {text_b}"),
        ("pet:a | Is it a question? | M", " {text} Is it a question? {mask}"),
        ("pet:a {so} M", " {text} {{so}} {mask}"),
    ],
)
def test_pet(source: str, native: str) -> None:
    assert read_template(source) == parse(native)


@pytest.mark.parametrize(
    ("source", "named"),
    [
        ("pet:It was great . a", "no M"),
        ("pet:It was M .", "no a"),
        ("pet:a is a M", "'a' twice"),
        ("pet:a M or M", "'M' twice"),
        ("pet:a || M || b", "'||' twice"),
        ("pet:|| a M", "{sep} at an end"),
        ("pet:premise: a M*", "'M*'"),
        ("pet:", "no M"),
    ],
)
def test_pet_damaged(source: str, named: str) -> None:
    with pytest.raises(TemplateError) as caught:
        read_template(source)
    assert named in str(caught.value)
    assert source in str(caught.value)


@given(
    st.permutations(["a", "M", "b"]),
    st.lists(
        st.text(st.sampled_from("xyz{}*_?.\"'") | st.characters(categories=["L", "P"]), min_size=1)
        .filter(lambda word: word not in ("a", "b", "M", "M*", "|"))
        .filter(lambda word: word.split() == [word] and "||" not in word),
        min_size=4,
        max_size=4,
    ),
    st.booleans(),
)
def test_a_pet_pattern_says_what_its_parts_say(
    places: list[str], words: list[str], barred: bool
) -> None:
    """In its order, every word kept as it is, however the parts are divided."""
    written = [one for pair in zip(words, [*places, ""], strict=True) for one in pair if one]
    template = read_template("pet:" + (" | " if barred else " ").join(written))
    assert parse(str(template)) == template
    kinds = {"text": "a", "text_b": "b", "mask": "M"}
    assert [kinds.get(part.kind, part.literal) for part in template.parts] == written
    assert all(part.space_before for part in template.parts)


PIECES = {
    '{"placeholder":"text_a"}': "{text}",
    "{'placeholder': 'text_b', 'shortenable': True}": "{text_b}",
    '{"mask"}': "{mask}",
    '{"soft": None, "duplicate": 3}': "{soft:3}",
    "{'soft'}": "{soft:1}",
    '{"text": "it was"}': "it was",
    '{"placeholder":"text_a", "post_processing": lambda s: s.rstrip(string.punctuation)}': (
        "{text|strip_final_punctuation}"
    ),
}


@given(
    st.lists(
        st.tuples(st.sampled_from(sorted(PIECES)), st.sampled_from(["", " ", " so ", "!", ", "])),
        max_size=5,
    )
)
def test_openprompt_pieces_mean_what_ours_do_in_any_order(chosen: list[tuple[str, str]]) -> None:
    """A template that ours could not be is refused, in their language too."""
    source = '{"mask"}' + "".join(piece + literal for piece, literal in chosen)
    native = "{mask}" + "".join(PIECES[piece] + literal for piece, literal in chosen)
    kind = "pair" if "{text_b}" in native else "single"
    try:
        check_template(parse(native), kind)
    except TemplateError:
        with pytest.raises(TemplateError):
            read_template(source)
    else:
        assert read_template(source) == parse(native)


@given(
    st.sampled_from(["", "+"]),
    st.sampled_from(["", "l", "u"]),
    st.sampled_from(["", "-"]),
    st.sampled_from(["", "+"]),
)
def test_every_form_of_an_lm_bff_sentence_is_read(
    space: str, first: str, cut: str, other: str
) -> None:
    source = f"*cls*_So*{space}sent{first}{cut}_0**mask*,*{other}sent_1**sep+*"
    filters = "|strip_final_punctuation" * bool(cut)
    filters += {"": "", "l": "|lower_first", "u": "|upper_first"}[first]
    native = f" So{' ' * bool(space)}{{text{filters}}} {{mask}},{' ' * bool(other)}{{text_b}}"
    assert read_template(source) == parse(native)


def test_native_templates_stay_native() -> None:
    for source in ("{text} *mask* {mask}", '{{"mask"}} {text} {mask}', '"{text}" {mask}'):
        assert read_template(source) == parse(source)


@given(st.text(alphabet=st.sampled_from("{}*_|\"':, 1aN\\") | st.characters(), max_size=20))
def test_any_string_is_read_or_refused(noise: str) -> None:
    for source in (
        noise,
        '{"mask"}' + noise,
        "*cls*" + noise + "*sep+*",
        '{"' + noise + '"}',
        "pet:" + noise,
    ):
        try:
            template = read_template(source)
        except TemplateError:
            continue
        assert parse(str(template)) == template
