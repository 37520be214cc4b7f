"""Templates as people read them."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from autoprompt.report.prompt import read_aloud, segments


def test_a_template_is_read_with_placeholders_filled():
    assert read_aloud("{text} It was {mask}.", "great") == "…your text… It was great."
    assert read_aloud("{text|limit:110|lower_first}: {mask}", "x") == "…your text…: x"


def test_a_pair_names_both_texts():
    read = read_aloud("{text|strip_final_punctuation}? {mask}, {text_b|lower_first}", "yes")
    assert read == "…your first text…? yes, …your second text…"


def test_escaped_braces_are_braces_and_never_slots():
    parts = segments("{{text}} {text} {{{mask}}}")
    assert "".join(part.text for part in parts) == "{text} …your text… {____}"
    assert [part.kind for part in parts] == ["literal", "text", "literal", "mask", "literal"]


def test_soft_tokens_and_sides_are_shown():
    kinds = [part.kind for part in segments("{soft:12}{text}{sep}{mask}")]
    assert kinds == ["soft", "text", "sep", "mask"]
    assert "12" in segments("{soft:12}")[0].text


@given(st.text(alphabet="{}|:ab text_mask12<&", max_size=40))
def test_any_text_is_shown_and_nothing_is_lost(source):
    parts = segments(source)
    literal = [part.text for part in parts if part.kind == "literal"]
    for text in literal:
        assert set(text) <= set(source)
    if "{" not in source and "}" not in source:
        assert read_aloud(source) == source
