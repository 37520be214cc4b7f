"""Blocks computed side by side on a CPU. Knows benches and threads; no trials, no database.

A few-shot step is too small for all cores: its products are short, and the cores wait for one
another between them. So a lane is a thread with its share of the cores and a model of its own, and
computes one block at a time. What it finds does not depend on the other lanes.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from queue import SimpleQueue
from threading import Thread
from typing import Any

from autoprompt.config import ConfigError, Train
from autoprompt.data.splits import Block
from autoprompt.models.backbone import Backbone
from autoprompt.search.bench import Bench
from autoprompt.search.stop import Halted, halt
from search_spaces.candidate import Candidate

log = logging.getLogger(__name__)

#: Lanes at most where none are asked for: the sampler learns nothing from trials under way.
MOST = 4
#: A lane holds the model's weights twice, a gradient and two moments of each.
COPIES = 5
#: Share of the free memory that lanes may take where none are asked for.
SHARE = 0.5
#: Seconds that a lane may take to stop, and after which it is told so again.
PATIENCE, GRACE = 10.0, 0.2

Found = tuple[dict[str, float], int]
#: A candidate's block, computed by whoever takes the steps: `Bench.block_steps`, `Lane.steps`.
Score = Callable[[Candidate, Block, float | None], Generator[Any, None, Found]]


@dataclass(eq=False)
class Work:
    """A block that a lane computes; what it found, or why it did not."""

    compute: Callable[[], Found]
    found: Found | None = None
    error: Exception | None = None


@dataclass(eq=False)
class Lane:
    """`bench`: the run's, with the lane's own model."""

    bench: Bench
    waiting: SimpleQueue[Work | None] = field(default_factory=SimpleQueue)

    def steps(
        self, candidate: Candidate, part: Block, deadline: float | None = None
    ) -> Generator[Work, None, Found]:
        """A block's metrics and tokens, as `Bench.block_steps`; to be resumed once what it yields
        has ended."""
        work = Work(lambda: self.bench.run_block(candidate, part, deadline))
        self.waiting.put(work)
        yield work
        if work.error is not None:
            raise work.error
        assert work.found is not None, "resumed before it has ended"
        return work.found


#: What is to be done in the lane that it is given.
Task = Callable[[Lane], Generator[Work, None, None]]


class Lanes:
    """Open lanes. Leaving the context ends them, in the midst of a block too."""

    def __init__(self, bench: Bench, count: int, threads: int) -> None:
        """`count` lanes of `threads` threads each; the first has the bench's own model."""
        # loaded here: transformers patches what is global while it loads
        twins = [replace(bench, workshop=bench.workshop.twin()) for _ in range(count - 1)]
        self._lanes = [Lane(one) for one in (bench, *twins)]
        self._ended: SimpleQueue[Work] = SimpleQueue()
        self._threads = [
            Thread(target=self._run, args=(lane, threads), name=f"lane {n}", daemon=True)
            for n, lane in enumerate(self._lanes)
        ]

    def __len__(self) -> int:
        return len(self._lanes)

    def __iter__(self) -> Iterator[Lane]:
        return iter(self._lanes)

    def __enter__(self) -> Lanes:
        try:
            for thread in self._threads:
                thread.start()
        except BaseException:
            self._dismiss()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        try:
            for lane in self._lanes:
                lane.waiting.put(None)
            patience = time.monotonic() + PATIENCE
            while (busy := self._busy()) and time.monotonic() < patience:  # idle ones have ended
                for thread in busy:
                    halt(thread)
        except BaseException:  # one more Ctrl-C: they are not waited for
            self._dismiss()
            raise
        for thread in busy:
            log.warning("%s: still computing %g s after its search ended", thread.name, PATIENCE)

    def _busy(self) -> list[Thread]:
        """The lanes that still compute in a moment."""
        moment = time.monotonic() + GRACE
        for thread in self._threads:
            thread.join(max(0.0, moment - time.monotonic()))
        return [thread for thread in self._threads if thread.is_alive()]

    def _dismiss(self) -> None:
        """Tell all lanes to end, those that have not begun their first work too."""
        for lane, thread in zip(self._lanes, self._threads, strict=True):
            lane.waiting.put(None)
            halt(thread)

    def wait(self) -> Work:
        """The next work that ends."""
        return self._ended.get()

    def drive(self, tasks: Iterable[Task]) -> None:
        """Do all tasks, in their order as lanes become free."""
        waiting, free = iter(tasks), deque(self._lanes)
        going: dict[Work, tuple[Lane, Generator[Work, None, None]]] = {}
        while True:
            while free and (task := next(waiting, None)) is not None:
                steps = task(free[0])
                if (work := next(steps, None)) is not None:
                    going[work] = free.popleft(), steps
            if not going:
                return
            lane, steps = going.pop(self.wait())
            if (work := next(steps, None)) is not None:
                going[work] = lane, steps
            else:
                free.append(lane)

    def _run(self, lane: Lane, threads: int) -> None:
        import torch

        torch.set_num_threads(threads)  # of this thread alone
        with suppress(Halted):
            while (work := lane.waiting.get()) is not None:
                try:
                    work.found = work.compute()
                except Halted:
                    raise
                except Exception as error:
                    work.error = error
                except BaseException as error:  # such as a panic of a tokenizer's
                    work.error = RuntimeError(f"{type(error).__name__}: {error}")
                self._ended.put(work)


def check_lanes(train: Train, device: str) -> None:
    """`ConfigError` where the run cannot have the lanes that it asks for."""
    lanes, together = train.lanes or 1, train.together or 1
    if lanes > 1 and device != "cpu":
        raise ConfigError(
            f"train.lanes: {lanes} on {device}, which lanes would share; leave it out, and set "
            "train.together"
        )
    if lanes > 1 and together > 1:
        raise ConfigError(
            f"train.lanes: {lanes} beside train.together = {together}, which puts all trials into "
            "one batch; leave one of them out"
        )


@contextmanager
def open_lanes(
    bench: Bench, train: Train, timed: bool, say: Callable[[str], None]
) -> Iterator[Lanes | None]:
    """What a run's trials are computed in; None where that is one at a time, or all in one batch.

    timed: whether the run has a time limit. Without one there is one lane unless more are asked
    for, so that the same command finds the same.
    """
    import torch

    workshop, threads = bench.workshop, torch.get_num_threads()
    count = train.lanes or (lanes_for(threads, workshop.backbone) if timed else 1)
    if count == 1 or workshop.device != "cpu" or (train.together or 1) > 1:
        yield None
        return
    each = max(1, threads // count)
    with Lanes(bench, count, each) as lanes:
        say(f"{count} trials at a time, {each} thread{'s' if each > 1 else ''} each")
        yield lanes


def lanes_for(threads: int, backbone: Backbone) -> int:
    """As many as threads and memory allow, and MOST."""
    from autoprompt.models.memory import free_memory

    room = SHARE * free_memory("cpu") // (COPIES * backbone.weights.size)
    return max(1, min(MOST, threads, int(room)))
