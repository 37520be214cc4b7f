"""The wall clock of a run: what is spent, what is left, what is kept back for the end."""

from __future__ import annotations

import time
from dataclasses import dataclass, field


@dataclass
class Clock:
    """Seconds of all `search` calls on a run together.

    minutes: the whole budget, None = none. spent: seconds of the calls before this one.
    began: `time.monotonic()` when this call began.
    """

    minutes: float | None
    spent: float = 0.0
    began: float = field(default_factory=time.monotonic)

    @property
    def seconds(self) -> float:
        """Seconds used so far, earlier calls included."""
        return self.spent + time.monotonic() - self.began

    @property
    def total(self) -> float | None:
        return None if self.minutes is None else 60.0 * self.minutes

    def left(self, reserve: float = 0.0) -> float:
        """Seconds left before `reserve` is touched; infinite without a limit."""
        return float("inf") if self.total is None else self.total - reserve - self.seconds

    def deadline(self, reserve: float = 0.0) -> float | None:
        """The `time.monotonic()` at which `reserve` begins; None without a limit."""
        return None if self.total is None else time.monotonic() + self.left(reserve)
