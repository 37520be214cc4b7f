"""What the built-in model's tools refuse, and how they say it: one line and an exit code."""

from __future__ import annotations

import sys
from collections.abc import Callable

from autoprompt.models.builtin import BuiltinModelError
from autoprompt.models.device import DeviceError

RETRY = 75  # ended by a signal; the same command goes on


class ToolError(ValueError):
    """An option that cannot be."""

    exit_code = 2


class DataError(ToolError):
    """A text or a data set that cannot be read, or has nothing to learn from."""

    exit_code = 3


class LearningError(ToolError):
    """A training whose weights are no numbers any more."""

    exit_code = 4


def exit_code(run: Callable[[], int]) -> int:
    """What `run` returns; a refusal becomes one line on standard error and its exit code."""
    try:
        return run()
    except (ToolError, BuiltinModelError, DeviceError) as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
