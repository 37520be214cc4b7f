"""The template language as a user writes it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoprompt.text.template import (
    Filter,
    Part,
    Piece,
    TemplateError,
    check_template,
    parse,
    render,
    render_for_people,
)
from autoprompt.text.truncation import TokenPiece, truncate


def test_spaces_belong_to_the_element_that_follows() -> None:
    assert parse("{text} It was {mask}.").parts == (
        Part("text"),
        Part("literal", literal="It was", space_before=True),
        Part("mask", space_before=True),
        Part("literal", literal="."),
    )


def test_filters_and_soft_tokens_are_read() -> None:
    template = parse("{soft:5}{text|strip_final_punctuation|limit:110}?{sep}{mask}")
    assert template.parts[0] == Part("soft", length=5)
    filters = (Filter("strip_final_punctuation"), Filter("limit", 110))
    assert template.parts[1] == Part("text", filters=filters)
    assert [part.kind for part in template.parts[2:]] == ["literal", "sep", "mask"]


def test_doubled_braces_are_literal() -> None:
    template = parse("{{{text}}} {{mask}} {mask}")
    assert render_for_people(template, "x") == "{x} {mask} [MASK]"
    assert [part.kind for part in template.parts].count("mask") == 1


@pytest.mark.parametrize(
    ("source", "fix"),
    [
        ("{texr} {mask}", "{text}"),
        ("{text_a} {mask}", "{text}"),
        ("{text} {mask", "{{"),
        ("{text} } {mask}", "}}"),
        ("{text} {mask} {", "{{"),
        ("{text} {mask} {}", "{{ and }}"),
        ("{text:3} {mask}", "{text}"),
        ("{soft} {text} {mask}", "{soft:N}"),
        ("{soft:0} {text} {mask}", "{soft:N}"),
        ("{soft:-1} {text} {mask}", "{soft:N}"),
        ("{soft:1e3} {text} {mask}", "{soft:N}"),
        ("{text|limt:3} {mask}", "'limit'"),
        ("{text|limit} {mask}", "limit:N"),
        ("{text|limit:0} {mask}", "limit:N"),
        ("{text|limit:3|limit:4} {mask}", "once"),
        ("{text|lower_first:2} {mask}", "lower_first"),
        ("{text|} {mask}", "strip_final_punctuation"),
        ("{text} {mask|limit:3}", "filter only"),
        ("{text.__class__} {mask}", "known: text"),
        ("{text!r} {mask}", "{text}"),
    ],
)
def test_unreadable_templates_say_what_to_write(source: str, fix: str) -> None:
    with pytest.raises(TemplateError) as caught:
        parse(source)
    message = str(caught.value)
    assert message.startswith("template: ")
    assert repr(source) in message
    assert fix in message.partition("; ")[2]
    assert "\n" not in message
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("source", "kind", "word"),
    [
        ("{text} It was great.", "single", "no {mask}"),
        ("", "single", "no {mask}"),
        ("{text} {mask} {mask}", "single", "2 {mask}"),
        ("It was {mask}.", "single", "no {text}"),
        ("{text_b} It was {mask}.", "pair", "no {text}"),
        ("{text} {text} {mask}", "single", "{text} twice"),
        ("{text} {text_b} {mask}", "single", "{text_b}"),
        ("{text} {mask}", "pair", "{text_b}"),
        ("{text}{sep}{text_b}{sep}{mask}", "pair", "{sep} twice"),
        ("{text} {mask}{sep}", "single", "{sep} at an end"),
    ],
)
def test_templates_that_do_not_serve_the_task_are_refused(
    source: str, kind: str, word: str
) -> None:
    with pytest.raises(TemplateError, match=r"^template: ") as caught:
        check_template(parse(source), kind)
    assert word in str(caught.value)


def test_fitting_templates_pass() -> None:
    check_template(parse("{soft:3} {text} {mask}"), "single")
    check_template(parse("{text}?{sep}{mask}, {text_b}"), "pair")


@pytest.mark.parametrize(
    ("filters", "text", "expected"),
    [
        # trap 7: LM-BFF would drop the "d" of a text without final punctuation
        ("strip_final_punctuation", "A man eats", "A man eats"),
        ("strip_final_punctuation", "A man eats ...", "A man eats"),
        ("strip_final_punctuation", "Really?!", "Really"),
        ("strip_final_punctuation", "本当ですか。", "本当ですか"),
        ("strip_final_punctuation", "I like C++.", "I like C++"),
        ("strip_final_punctuation", "up by 50%.", "up by 50%"),
        ("lower_first", "The Man", "the Man"),
        ("upper_first", "the man", "The man"),
        ("lower_first|strip_final_punctuation", " The man. ", "the man"),
        ("limit:3", "one two three four", "one two three four"),
    ],
)
def test_filters_change_the_text(filters: str, text: str, expected: str) -> None:
    (piece, _) = render(parse(f"{{text|{filters}}} {{mask}}"), text)
    assert piece.text == expected
    assert piece.limit == (3 if filters == "limit:3" else None)


@pytest.mark.parametrize("text", ["", "  ", "\n", "..."])
def test_text_left_empty_gives_no_piece(text: str) -> None:
    pieces = render(parse("{text|strip_final_punctuation} It was {mask}."), text)
    assert [piece.text for piece in pieces] == ["It was", "", "."]


def test_missing_second_text_is_named() -> None:
    with pytest.raises(TemplateError, match="text_b"):
        render(parse("{text} {mask} {text_b}"), "a")


def test_rendered_for_people() -> None:
    template = parse("{soft:2} {text|strip_final_punctuation}?{sep}{mask}, {text_b|lower_first}")
    shown = render_for_people(template, "A man eats.", "He is fed.", mask="<mask>")
    assert shown == "[SOFT:2] A man eats? [SEP] <mask>, he is fed."
    assert render_for_people(parse("{text} It was {mask}."), "") == "It was [MASK]."


LITERALS = st.text(
    alphabet=st.one_of(st.sampled_from(" \n.,:?!\"'{}*_|aZ0é中"), st.characters()), max_size=8
)
FILTERS = st.lists(
    st.sampled_from(["strip_final_punctuation", "lower_first", "upper_first", "limit:7"]),
    unique=True,
    max_size=3,
)


@st.composite
def sources(draw: st.DrawFn) -> tuple[str, str]:
    """(kind, source) of any template that serves its task."""
    kind = draw(st.sampled_from(["single", "pair"]))
    names = ["mask", "|".join(["text", *draw(FILTERS)])]
    if kind == "pair":
        names.append("|".join(["text_b", *draw(FILTERS)]))
    names += [f"soft:{draw(st.integers(1, 999))}" for _ in range(draw(st.integers(0, 2)))]
    names = draw(st.permutations(names))
    if draw(st.booleans()):
        names.insert(draw(st.integers(1, len(names) - 1)), "sep")
    source = ""
    for name in names:
        literal = draw(LITERALS).replace("{", "{{").replace("}", "}}")
        source += literal + "{" + name + "}"
    return kind, source + draw(LITERALS).replace("{", "{{").replace("}", "}}")


@given(sources())
def test_source_and_template_are_the_same_thing(drawn: tuple[str, str]) -> None:
    kind, source = drawn
    template = parse(source)
    check_template(template, kind)
    assert parse(str(template)) == template
    assert str(parse(str(template))) == str(template)


@given(st.text(alphabet=st.one_of(st.sampled_from("{}|:textmasksof_b1 "), st.characters())))
def test_any_string_is_read_or_refused(source: str) -> None:
    try:
        template = parse(source)
    except TemplateError:
        return
    assert parse(str(template)) == template


HOSTILE = st.text(
    alphabet=st.one_of(st.sampled_from("{}*_|<>[] "), st.characters()), max_size=30
) | st.sampled_from(["{mask}", "{{text_b}}", "<mask>", "[MASK]", "*mask*", "{soft:3}", "{sep}"])


@given(sources(), HOSTILE, HOSTILE)
def test_texts_never_change_the_parse(drawn: tuple[str, str], text: str, text_b: str) -> None:
    kind, source = drawn
    template = parse(source)
    second = text_b if kind == "pair" else None

    def skeleton(pieces: tuple[Piece, ...]) -> list[Piece]:
        return [piece for piece in pieces if not piece.shortenable]

    pieces = render(template, text, second)
    assert skeleton(pieces) == skeleton(render(template, "plain", "words"))
    assert sum(piece.kind == "mask" for piece in pieces) == 1
    bare = [piece.text for piece in pieces if piece.shortenable]
    assert all(words == words.strip() and words for words in bare)


# case 25; characters stand in for tokens, so that any template and text can be cut
@given(sources(), HOSTILE, HOSTILE, st.integers(0, 60))
def test_any_length_keeps_one_mask_and_all_literals(
    drawn: tuple[str, str], text: str, text_b: str, spare: int
) -> None:
    kind, source = drawn
    sides: list[list[TokenPiece]] = [[]]
    for piece in render(parse(source), text, text_b if kind == "pair" else None):
        if piece.kind == "sep":
            sides.append([])
        elif piece.kind == "words":
            ids = tuple(map(ord, piece.text))
            sides[-1].append(TokenPiece("words", ids, piece.shortenable))
        else:
            sides[-1].append(TokenPiece(piece.kind, (-1,) * (piece.length or 1)))
    fixed = [[piece for piece in side if not piece.shortenable] for side in sides]
    room = sum(len(piece.ids) for side in fixed for piece in side) + spare
    cut = truncate(sides, room)
    assert [[piece for piece in side if not piece.shortenable] for side in cut] == fixed
    assert sum(piece.kind == "mask" for side in cut for piece in side) == 1
    assert sum(len(piece.ids) for side in cut for piece in side) <= room
