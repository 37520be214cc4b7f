"""Tasks and contents: what may be learned, and which rows count as the same."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoprompt.data.task import DataError, Example, Task, content_key, digest, make_task


def rows(*labels: str) -> list[Example]:
    return [Example(f"text {n}", None, label, n + 2) for n, label in enumerate(labels)]


def test_labels_are_sorted_names() -> None:
    assert make_task(rows("b", "a", "b", "a")) == Task("single", ("a", "b"))
    pairs = [Example(row.text, "second", row.label) for row in rows("b", "a", "b", "a")]
    assert make_task(pairs) == Task("pair", ("a", "b"))


@pytest.mark.parametrize(
    ("examples", "message"),
    [
        ([], "no rows"),
        (rows("a", "a"), "one class 'a'"),
        (rows("a", "a", "b"), r"class 'b' has one row \(line 4\)"),
        (
            rows("a", "a", "b" * 201, "b" * 201),
            r"\(line 4\) has 201 characters, more than 200; name",
        ),
        ([*rows("a", "a"), Example("x", None, None, 7)], r"missing \(line 7\)"),
        ([*rows("a", "a"), Example("x", "y", "b", 9)], r"text_b: present \(line 9\)"),
    ],
)
def test_nothing_can_be_learned(examples: list[Example], message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        make_task(examples)
    assert caught.value.exit_code == 3
    assert "\n" not in str(caught.value)


def test_label_ids_name_the_unseen_label_and_its_line() -> None:
    task = Task("single", ("negative", "positive"))
    assert task.label_ids(rows("positive", "negative")) == [1, 0]
    with pytest.raises(DataError, match=r"'postive' \(line 3\).*did you mean 'positive'"):
        task.label_ids(rows("positive", "postive"))


def test_same_content() -> None:
    key = content_key(Example("Hello, World 42!"))
    assert key == content_key(Example("  hello WORLD_42")) == "helloworld42"
    assert content_key(Example("ﬁne Ⅳ")) == content_key(Example("fine iv"))  # NFKC
    assert content_key(Example("no")) != content_key(Example("no", "yes"))
    assert content_key(Example("a", "bc")) != content_key(Example("ab", "c"))


@pytest.mark.parametrize(
    ("one", "other"),
    [("मैं", "में"), ("ดี", "ดุ"), ("ਕਿ", "ਕੀ")],  # Hindi, Thai, Punjabi: told apart by their signs
)
def test_vowel_signs_are_part_of_a_word(one: str, other: str) -> None:
    assert content_key(Example(one)) != content_key(Example(other))
    assert content_key(Example(f"{one}!")) == content_key(Example(one))
    assert content_key(Example("good ❤️")) == content_key(Example("Good ❤"))


def test_texts_without_letters_are_not_all_the_same() -> None:
    assert content_key(Example("👍")) != content_key(Example("👎"))
    assert content_key(Example(":-( ")) == content_key(Example(" :-("))


@given(st.text(), st.text())
def test_case_and_punctuation_never_matter_beside_a_letter(text: str, mark: str) -> None:
    punctuation = "".join(c for c in mark if c in " .,;:!?-'\"()")
    assert content_key(Example("x" + text)) == content_key(Example(f"{punctuation}x{text}"))


def test_digest_is_fixed_and_sees_order_text_and_label() -> None:
    one, other = rows("a", "b")
    assert digest([one, other]) == digest([Example("text 0", None, "a", 99), other])
    assert len({digest([one, other]), digest([other, one]), digest([one]), digest(())}) == 4
    # kept in run folders: a changed digest would make every run refuse its own data
    written = hashlib.sha256(b'[["n\\u00e9",null,"a"]]').hexdigest()
    assert digest([Example("né", None, "a")]) == written
