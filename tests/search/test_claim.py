"""Two RUN folders that name one study of a shared database: one at a time."""

from __future__ import annotations

from pathlib import Path

import pytest
import toy

from autoprompt.search.claim import claimed
from autoprompt.search.folder import RunBusy
from storage.store import Store


def test_a_study_that_another_process_searches_is_refused(
    toy_data: Path, tiny_model: Path, tmp_path: Path
) -> None:
    url = f"sqlite:///{tmp_path / 'shared.db'}"
    search = ("search", toy_data, "--model", tiny_model, "--storage", url, "--trials", 1)
    search = (*search, "--preset", "tfidf", *toy.TINY)
    with Store.open(url) as store, claimed(store, "run"):
        said = toy.command(*search, "--out", tmp_path / "mine" / "run")
        assert said.code == 75
        assert "--study run: another process searches it" in said.err
        assert not (tmp_path / "mine").exists()
        said = toy.command(*search, "--out", tmp_path / "mine" / "run", "--study", "other")
        assert said.code == 0, said.err
    assert toy.command(*search, "--out", tmp_path / "yours" / "run").code == 0
    assert not list(tmp_path.glob("*.lock"))


def test_a_claim_is_taken_again_after_any_end(tmp_path: Path) -> None:
    with Store.open(f"sqlite:///{tmp_path / 'shared.db'}") as store:
        for _ in range(2):
            with pytest.raises(ZeroDivisionError), claimed(store, "run"):
                with pytest.raises(RunBusy), claimed(store, "run"):
                    pytest.fail("held by two")
                raise ZeroDivisionError
