"""A run that was stopped before its sampler had a study."""

from __future__ import annotations

from pathlib import Path

import pytest
import toy
from sklearn.base import clone
from sklearn.exceptions import NotFittedError

from autoprompt import PromptSearch
from autoprompt.search import study as studies
from autoprompt.search.stop import Stopped

TEXTS, LABELS = zip(*toy.rows(4), strict=True)


@pytest.fixture
def stops(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    def stop(*_: object) -> None:
        raise Stopped(130)

    monkeypatch.setattr(studies, "open_study", stop)
    return monkeypatch


def test_its_report_is_written(
    stops: pytest.MonkeyPatch, toy_data: Path, tiny_model: Path, tmp_path: Path
) -> None:
    asked = ("--preset", "hard", "--model", tiny_model, *toy.TINY, *toy.GIVEN_POOLS)
    said = toy.command("search", toy_data, "--out", tmp_path / "run", *asked)
    assert said.code == 130
    stops.undo()
    said = toy.command("report", tmp_path / "run")
    assert said.code == 0, said.err
    assert (tmp_path / "run" / "report.html").is_file()


def test_its_estimator_says_that_it_is_not_fitted(
    stops: pytest.MonkeyPatch, tiny_model: Path
) -> None:
    settings = [*(item for item in toy.TINY if "=" in item), *toy.GIVEN_POOLS]
    search = PromptSearch(
        model=str(tiny_model), preset="hard", device="cpu", study="mine", settings=settings
    )
    with pytest.raises(KeyboardInterrupt):
        search.fit(TEXTS, LABELS)
    stops.undo()
    with pytest.raises(NotFittedError):
        search.leaderboard()
    assert search.study == "mine"
    assert clone(search).get_params()["study"] == "mine"
    assert "mine" in repr(search)
