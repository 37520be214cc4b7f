"""Notes as Markdown: complete, escaped, and never written over a person's own words."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from realistic_study import TEMPLATES, WORDS, add_trial, build, create

from autoprompt.dashboard import views
from autoprompt.report import leaderboard
from autoprompt.text.markdown import escape
from storage import queries
from storage.store import Store


@pytest.fixture
def rows(tmp_path):
    built = build(tmp_path, trials=12)
    yield leaderboard.rows(built.store, built.study)
    built.store.close()


def html(markdown: str) -> str:
    return MarkdownIt("commonmark").enable("table").render(markdown)


def test_a_note_shows_the_prompt_filled_in_and_every_word(tmp_path):
    with Store.open(f"sqlite:///{tmp_path / 'study.db'}") as store:
        study = create(store)
        add_trial(store, study, template=TEMPLATES[0], words=WORDS[1], search=[0.5, 0.75],
                  confirm=[0.5, 0.6], settings={"learning_rate": 5e-5})  # fmt: skip
        (trial,) = queries.trials(store, study.id)
        note = views.note(leaderboard.row(trial, study))
    page = html(note)
    assert "…your text… It was about ____." in page
    assert TEMPLATES[0] in page
    for label, words in WORDS[1].items():
        assert f"<td>{label}</td>\n<td>{', '.join(words)}</td>" in page
        assert f"It was about {words[0]}." in page
    assert "<td>learning_rate</td>\n<td>5e-05</td>" in page
    assert "0.550" in page
    assert "0.625" in page
    assert "autoprompt" not in page  # the mark is not seen


def test_every_row_has_a_note(rows):
    for row in rows:
        note = views.note(row)
        assert row.method.replace("_", "\\_") in note
        assert views.is_ours(note)


@given(st.text(max_size=60))
def test_escaped_text_is_shown_letter_by_letter(text):
    shown = " ".join(text.split())
    (inline,) = MarkdownIt("commonmark").parseInline(escape(text))
    assert inline.children is not None
    assert "".join(one.content for one in inline.children) == shown.replace("\x00", "�")


def test_hostile_templates_and_words_stay_text(tmp_path):
    hostile = "<script>alert(1)</script> | ``` ![x](http://e.example/x.png)\n\n# big"
    with Store.open(f"sqlite:///{tmp_path / 'study.db'}") as store:
        study = create(store)
        add_trial(store, study, template=f"{{text}} {hostile} {{mask}}", search=[0.5],
                  words={hostile: [hostile]}, state="failed", error=hostile)  # fmt: skip
        page = html(views.note(leaderboard.rows(store, study)[0]))
    assert "<script" not in page
    assert "<img" not in page
    assert "<h1" not in page
    assert page.count("&lt;script&gt;") >= 4


def test_an_edited_note_is_not_ours(rows):
    note = views.note(rows[0])
    assert views.is_ours(note)
    assert not views.is_ours(note + "\nmy own remark")
    assert not views.is_ours("my own remark\n" + note)
    assert not views.is_ours("my own remark")
    assert not views.is_ours("")


def test_the_study_note_begins_with_the_answer_and_holds_the_baselines(rows):
    page = html(views.study_note(rows))
    assert page.startswith(f"<p><strong>{leaderboard.first_line(rows)}")
    assert "embeddings (baseline)" in page
