"""The text of masked-LM training: read, hold out, tokenise, mix, batch, mask. Knows no model."""

from __future__ import annotations

import gzip
import hashlib
import random
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy
import torch
from safetensors import SafetensorError, safe_open

from tools.lm_errors import DataError
from tools.lm_files import write_safely

HELD_OUT = 2_000  # lines of each file, never trained on
WINDOW = 16_384  # lines sorted by length together: little padding, still a random order
# Lengths are padded to multiples of this, and a batch of one length always has as many lines: a
# CPU's matrix kernels are compiled for every shape, which otherwise takes a third of the time.
LENGTH_STEP = 16


class Lines(NamedTuple):
    """Token ids of many lines, end to end (uint16), and where each line starts."""

    ids: numpy.ndarray  # [tokens]
    starts: numpy.ndarray  # [lines + 1]


def read_lines(path: Path) -> list[str]:
    """Non-empty lines of a .txt or .txt.gz file, UTF-8; DataError where it is none or has none."""
    opener: Any = gzip.open if path.suffix == ".gz" else open
    try:
        with opener(path, "rt", encoding="utf-8") as handle:
            lines = [line for line in (raw.strip() for raw in handle) if line]
    except (OSError, EOFError, UnicodeDecodeError, zlib.error) as error:
        raise DataError(
            f"--text {path}: cannot be read ({error}); give UTF-8 text, .txt or .txt.gz"
        ) from None
    if not lines:
        raise DataError(f"--text {path}: has no line with a word; leave it out")
    return lines


def divide(lines: list[str]) -> tuple[list[str], list[str]]:
    """Split into (training, held out): the lines whose SHA-256 is smallest are held out."""
    digests = [hashlib.sha256(line.encode()).digest() for line in lines]
    limit = sorted(set(digests))[: min(HELD_OUT, len(lines) // 10)]
    held = set(limit)
    training = [line for line, digest in zip(lines, digests, strict=True) if digest not in held]
    return training, [line for line, d in zip(lines, digests, strict=True) if d in held]


def divide_all(texts: list[list[str]]) -> list[tuple[list[str], int]]:
    """(training lines, number held out) of each text; a line that is held out of one text is
    trained on in none."""
    divided = [divide(lines) for lines in texts]
    held = {line for _, lines in divided for line in lines}
    return [([line for line in lines if line not in held], len(out)) for lines, out in divided]


def tokenise(lines: list[str], tokenizer: Any, longest: int) -> Lines:
    """Token ids with [CLS] and [SEP], cut to `longest`; lines without an ordinary token are
    left out."""
    special = set(tokenizer.all_special_ids)
    pieces, starts = [], [0]
    for low in range(0, len(lines), 8_192):
        batch = tokenizer(lines[low : low + 8_192], truncation=True, max_length=longest)
        for row in batch["input_ids"]:
            if special.issuperset(row):  # signs that the tokenizer drops or does not know
                continue
            pieces.append(numpy.asarray(row, dtype=numpy.uint16))
            starts.append(starts[-1] + len(row))
    ids = numpy.concatenate(pieces) if pieces else numpy.zeros(0, dtype=numpy.uint16)
    return Lines(ids, numpy.asarray(starts))


def write_tokens(path: Path, lines: Lines, made: dict[str, str]) -> None:
    """Keep tokenised lines, two bytes a token, so that a corpus is easily carried to a GPU.
    made: what they were made with, which `read_tokens` asks for again."""
    write_safely(
        {"ids": torch.from_numpy(lines.ids), "starts": torch.from_numpy(lines.starts)}, path, made
    )


def read_tokens(path: Path, made: dict[str, str], vocabulary: int) -> Lines:
    """What `write_tokens` kept; DataError where it is another file or made otherwise."""
    again = "make it again with --tokenise"
    try:
        with safe_open(path, framework="numpy") as handle:
            metadata = handle.metadata() or {}
            ids, starts = handle.get_tensor("ids"), handle.get_tensor("starts")
    except (OSError, SafetensorError) as error:
        raise DataError(f"--text {path}: cannot be read ({error}); {again}") from None
    for name, expected in made.items():
        if metadata.get(name) != expected:
            raise DataError(
                f"--text {path}: made with {name} {metadata.get(name)}, this is {expected}; {again}"
            )
    whole = starts.ndim == ids.ndim == 1 and len(starts) > 1 and ids.dtype == numpy.uint16
    whole = (
        whole
        and starts[0] == 0
        and starts[-1] == len(ids)
        and bool((starts[1:] > starts[:-1]).all())
    )
    if not whole or int(ids.max()) >= vocabulary:
        raise DataError(f"--text {path}: holds no lines of token ids; {again}")
    return Lines(ids, starts)


def draw_lines(
    sizes: list[numpy.ndarray], shares: list[float], tokens: int, rng: random.Random
) -> list[tuple[int, int]]:
    """Draw (file, line) pairs until each file has its share of `tokens`, then shuffle them all.

    A file is read in random order; one that is too small is read again in another order.
    """
    chosen: list[tuple[int, int]] = []
    for file, (lengths, share) in enumerate(zip(sizes, shares, strict=True)):
        left = share * tokens
        while left > 0:
            order = list(range(len(lengths)))
            rng.shuffle(order)
            for line in order:
                if left <= 0:
                    break
                chosen.append((file, line))
                left -= int(lengths[line])
    rng.shuffle(chosen)
    return chosen


def padded(length: int) -> int:
    """The length a row of `length` tokens takes in a batch."""
    return -(-length // LENGTH_STEP) * LENGTH_STEP


def cut_batches(
    chosen: list[tuple[int, int]], sizes: list[numpy.ndarray], batch_tokens: int, rng: random.Random
) -> list[list[tuple[int, int]]]:
    """Batches of lines of one padded length, as many lines as `batch_tokens` hold.

    What fills no batch waits for the next window; the very last batches may be smaller.
    """
    batches: list[list[tuple[int, int]]] = []
    waiting: dict[int, list[tuple[int, int]]] = {}
    for low in range(0, len(chosen), WINDOW):
        cut: list[list[tuple[int, int]]] = []
        for file, line in chosen[low : low + WINDOW]:
            length = padded(int(sizes[file][line]))
            batch = waiting.setdefault(length, [])
            batch.append((file, line))
            if len(batch) == max(1, batch_tokens // length):
                cut.append(waiting.pop(length))
        rng.shuffle(cut)
        batches += cut
    return batches + list(waiting.values())


def fill_batch(batch: list[tuple[int, int]], files: list[Lines], padding: int) -> torch.Tensor:
    """Token ids [lines, longest] of a batch, the longest padded."""
    rows = [files[f].ids[files[f].starts[n] : files[f].starts[n + 1]] for f, n in batch]
    longest = padded(max(len(row) for row in rows))
    filled = numpy.full((len(rows), longest), padding, dtype=numpy.int64)
    for index, row in enumerate(rows):
        filled[index, : len(row)] = row
    return torch.from_numpy(filled)


def ahead(make: Callable[[int], Any], numbers: Iterable[int], count: int) -> Iterator[Any]:
    """`make(number)` in order; another thread works `count` numbers ahead (0: nothing is ahead)."""
    if count == 0:
        yield from map(make, numbers)
        return
    with ThreadPoolExecutor(1) as thread:
        waiting: deque[Any] = deque()
        for number in numbers:
            waiting.append(thread.submit(make, number))
            if len(waiting) > count:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def choose_masks(
    ids: torch.Tensor,
    rate: float,
    special: torch.Tensor,
    generator: torch.Generator,
    continues: torch.Tensor | None = None,
) -> torch.Tensor:
    """Boolean [lines, longest]: each ordinary token is masked with probability `rate`.

    continues: [vocabulary], boolean, the pieces that continue a word. With it a word is masked with
    all its pieces or not at all (whole-word masking, of the later BERT releases).
    """
    draws = torch.rand(ids.shape, generator=generator)
    if continues is not None:
        words = (~continues[ids]).long().cumsum(dim=1).sub(1).clamp_min(0)  # number of each word
        draws = draws.gather(1, words)
    return (draws < rate) & ~torch.isin(ids, special)
