"""The report as a file: one, self-contained, escaped, whole or absent."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from realistic_study import LABELS, add_trial, build, create

from autoprompt.report import leaderboard
from autoprompt.report.page import write_report
from storage.store import Store

HOSTILE = "<script>alert('x')</script>\"'&<img src=x onerror=alert(1)>"


class Page(HTMLParser):
    """Tags, attributes and the text a reader sees."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.headings: list[str] = []
        self.words: list[str] = []
        self.open: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if not self.open or self.open[-1] in ("style", "title"):
            return
        self.words.append(data)
        if self.open[-1] in ("h1", "h2"):
            self.headings.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", "".join(self.words))


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    made = build(tmp_path_factory.mktemp("report"))
    yield made
    made.store.close()


@pytest.fixture(scope="module")
def html(built, tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("page") / "report.html"
    assert write_report(built.store, built.study, path, optuna_study=built.optuna_study) == path
    return path.read_text(encoding="utf-8")


def test_the_answer_comes_first(built, html):
    page = Page(html)
    rows = leaderboard.rows(built.store, built.study)
    best = leaderboard.winner(rows)
    assert best is not None
    assert page.headings[0] == leaderboard.first_line(rows)
    assert page.headings[1:] == [
        "The prompt",
        "How sure is that?",
        "Against the baselines",
        "Test file",
        "Leaderboard",
        "How the search went",
        "What mattered",
        "Cost",
        "What was there to choose from",
        "Where it comes from",
    ]
    answer = page.text[: page.text.index("How sure is that?")]
    assert "…your text…" in answer
    assert all(label in answer for label in LABELS)
    for value in (best.mean, best.sd, best.lower_bound, best.search_mean):
        assert leaderboard.figure(value) in answer


def test_it_needs_nothing_from_anywhere(html):
    page = Page(html)
    assert page.open == []
    forbidden = {"script", "link", "iframe", "object", "embed", "img", "base"}
    assert not forbidden & {tag for tag, _ in page.tags}
    for _, attributes in page.tags:
        assert not {"src", "href", "style"} & set(attributes)
        assert not [name for name in attributes if name.startswith("on")]
    assert not re.search(r"https?://|url\(|@import", html)
    assert len(html.encode()) < 200_000


def test_every_trial_baseline_and_test_figure_is_in_it(built, html):
    text = Page(html).text
    for row, _ in leaderboard.distinct(leaderboard.rows(built.store, built.study)):
        assert f"trial {row.trial}" in text
    assert "Opened once" in text
    assert "3 rows are also among the labelled texts" in text
    assert "0.798 – 0.919" in text
    assert "learning_rate" in text
    assert "LearnerError" in text
    assert built.study.data_digest in text
    assert "4 min 31 s" in text


def test_hostile_words_stay_words(tmp_path):
    with Store.open(f"sqlite:///{tmp_path / 'study.db'}") as store:
        labels = (HOSTILE, "b")
        study = create(store, name=HOSTILE, labels=labels, model=HOSTILE,
                       settings={HOSTILE: {HOSTILE: HOSTILE}})  # fmt: skip
        words = {HOSTILE: [HOSTILE], "b": ["{{97*89}}"]}
        add_trial(store, study, template=f"{HOSTILE} {{text}} {{{{97*89}}}} {{mask}}", words=words,
                  search=[0.5, 0.6], confirm=[0.5, 0.6])  # fmt: skip
        add_trial(store, study, method=HOSTILE, settings={"n": 1}, state="failed", error=HOSTILE)
        html = write_report(store, study, tmp_path / "r.html").read_text(encoding="utf-8")
    page = Page(html)
    assert not {"script", "img"} & {tag for tag, _ in page.tags}
    assert page.text.count(HOSTILE) >= 6
    assert "{{97*89}}" in page.text
    assert "8633" not in page.text


@pytest.mark.parametrize("trials", [0, 1])
def test_a_study_just_begun_has_a_page(tmp_path, trials):
    with Store.open(f"sqlite:///{tmp_path / 'study.db'}") as store:
        study = create(store)
        for _ in range(trials):
            add_trial(store, study, search=[0.5], state="running")
        text = Page(write_report(store, study, tmp_path / "r.html").read_text()).text
    assert "No winner yet" in text
    assert "Not opened" in text


def test_an_unconfirmed_winner_and_a_second_opening_are_warned_of(tmp_path):
    with Store.open(f"sqlite:///{tmp_path / 'study.db'}") as store:
        study = create(store)
        trial = add_trial(store, study, search=[0.5, 0.75, 0.5])
        line = {
            "source": "t.csv", "data_digest": "77" * 32, "n": 10, "overlap": 0, "trial_id": trial,
            "method": "hard", "baseline": False, "subset": "all", "accuracy": 0.5,
            "macro_f1": 0.5, "mcc": 0.0,
        }  # fmt: skip
        store.record_test(study.id, [line])
        store.record_test(study.id, [{**line, "accuracy": 0.9}])
        text = Page(write_report(store, study, tmp_path / "r.html").read_text()).text
    assert "Not confirmed yet" in text
    assert "Opened 2 times" in text
    assert text.index("0.500") < text.index("0.900")


def test_a_page_that_cannot_be_written_leaves_the_old_one(tmp_path, built, monkeypatch):
    path = tmp_path / "report.html"
    path.write_text("old")

    def full(self: Path, *_: object, **__: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OSError, match="No space"):
        write_report(built.store, built.study, path)
    monkeypatch.undo()
    assert path.read_text() == "old"
    assert [found.name for found in tmp_path.iterdir()] == ["report.html"]


def test_a_test_of_an_earlier_winner_is_not_shown_as_the_winners(tmp_path):
    with Store.open(f"sqlite:///{tmp_path / 'study.db'}") as store:
        study = create(store)
        early = add_trial(store, study, search=[0.5, 0.5], confirm=[0.5, 0.5])
        add_trial(store, study, settings={"n": 1}, search=[0.9, 0.9], confirm=[0.9, 0.9])
        line = {
            "source": "t.csv", "data_digest": "77" * 32, "n": 10, "overlap": 0, "trial_id": early,
            "method": "hard", "baseline": False, "subset": "all", "accuracy": 0.4321,
            "macro_f1": 0.5, "mcc": 0.0,
        }  # fmt: skip
        store.record_test(study.id, [line])
        text = Page(write_report(store, study, tmp_path / "r.html").read_text()).text
    assert text.index("0.432") > text.index("Opened once")
    assert f"trial {early}, not the winner above" in text
