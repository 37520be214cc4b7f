"""The opening of a test file: what is refused before anything is trained."""

from __future__ import annotations

from typing import Any

import pytest

from autoprompt.data.readers import ColumnError, Columns, Table
from autoprompt.data.task import Example, Task, digest
from autoprompt.search.exam import examine


@pytest.mark.parametrize(
    ("kind", "second", "named"),
    [("single", "b", "single texts are wanted"), ("pair", None, "pairs are wanted")],
)
def test_a_table_of_the_other_kind_costs_no_opening(
    kind: str, second: str | None, named: str
) -> None:
    rows = (Example("a", second, "good"), Example("c", second, "bad"))
    table = Table("held.csv", Columns(), rows, digest(rows))
    untouched: Any = None  # no store to record in, no workshop to train in
    with pytest.raises(ColumnError, match=rf"--text-b: {named}, and held\.csv has") as caught:
        examine(
            table,
            *(untouched, untouched, untouched),
            Task(kind, ("bad", "good")),
            (),
            untouched,
            columns={},
        )
    assert caught.value.exit_code == 2
