"""Train the built-in model's adapter by masked language modelling. Not needed to use autoprompt.

Reads any plain text (one passage a line, .txt or .txt.gz), on CPU or GPU by one command:

    python -m tools.train_builtin_lm --text reviews.txt.gz=0.4 --text news.txt=0.2 ... \
        --tokens 38000000 --work RUN --out autoprompt/models/builtin_lm.safetensors

FILE=WEIGHT is the share of the training tokens (default: shares by size). The run ends at --tokens
or --minutes, whichever comes first, and the learning rate falls to zero towards that end. Started
again on the same --work it resumes from its last checkpoint; with --slice MINUTES it stops after so
long, to be resumed. --start begins with an adapter that was trained before. Embeddings stay frozen.
--tokenise FOLDER writes each text's training lines as FOLDER/NAME.tokens (two bytes a token) and
ends; --text reads such files too, so that a machine with a GPU needs nothing else.
A share of the batches (--cues) can show each line with a cue that asks for one of its words
(tools/lm_cues.py); there the state at the cue's mask also learns to tell the sentence encoder's
embedding of the line (--distil). It costs more than it gives: see benchmarks/results/builtin_lm.md.
Run from the repository root. tools/evaluate_builtin_lm.py measures the result.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import math
import random
import time
from pathlib import Path
from typing import Any

import numpy
import torch

from autoprompt.models import builtin
from autoprompt.models.device import PRECISIONS, resolve_precision
from autoprompt.models.meter import matrix_rate
from tools.lm_cues import Cued, Kinds, add_cue, find_kinds
from tools.lm_rate import wait_for
from tools.lm_text import (
    Lines,
    ahead,
    choose_masks,
    cut_batches,
    divide,
    draw_lines,
    fill_batch,
    read_lines,
    read_tokens,
    tokenise,
    write_tokens,
)
from tools.lm_trainer import Trainer

TOKENS = ".tokens"  # ending of a tokenised text


def learning_rate(done: float, peak: float, warm_up: float) -> float:
    """Linear warm-up over the first `warm_up` share of the run, then linear decay to zero."""
    rising = done / warm_up if warm_up > 0 else 1.0
    return peak * min(rising, max(0.0, 1.0 - done) / (1.0 - warm_up))


def read_text(path: Path, most: int | None, tokenizer: Any, options: argparse.Namespace) -> Lines:
    """Training lines of a text as token ids, in random order, `most` of them."""
    if path.suffix == TOKENS:
        return read_tokens(path)
    training, held = divide(read_lines(path))
    # No more lines than the run can use: tokenising is the slow part of the start.
    random.Random(options.seed).shuffle(training)
    lines = tokenise(training[:most], tokenizer, options.longest)
    print(
        f"{path.name}: {len(lines.starts) - 1:,} lines, {len(lines.ids):,} tokens, "
        f"{len(held):,} lines held out",
        flush=True,
    )
    return lines


def write_texts(options: argparse.Namespace) -> None:
    """Tokenise the texts into --tokenise."""
    tokenizer = builtin.load_tokenizer(builtin.sentence_encoder_path())
    options.tokenise.mkdir(parents=True, exist_ok=True)
    for text in options.text:
        path = Path(text.partition("=")[0])
        name = path.name.removesuffix(".gz").removesuffix(".txt") + TOKENS
        write_tokens(options.tokenise / name, read_text(path, None, tokenizer, options))


def prepare(options: argparse.Namespace) -> tuple[list[Lines], list[list[tuple[int, int]]], Any]:
    """Read and tokenise the files, draw the mix, cut it into batches."""
    tokenizer = builtin.load_tokenizer(builtin.sentence_encoder_path())
    files, weights = [], []
    for text in options.text:
        path, _, weight = text.partition("=")
        most = math.ceil(float(weight) * options.tokens / 12) if weight else None
        files.append(read_text(Path(path), most, tokenizer, options))
        weights.append(float(weight) if weight else float(len(files[-1].ids)))
    sizes = [numpy.diff(file.starts) for file in files]
    shares = [weight / sum(weights) for weight in weights]
    rng = random.Random(options.seed)
    chosen = draw_lines(sizes, shares, options.tokens, rng)
    return files, cut_batches(chosen, sizes, options.batch_tokens, rng), tokenizer


def make_batch(
    ids: torch.Tensor,
    options: argparse.Namespace,
    kinds: Kinds,
    tokenizer: Any,
    generator: torch.Generator,
) -> Cued:
    """Plain masked lines, or with probability --cues the same lines with a cue."""
    special = torch.tensor(tokenizer.all_special_ids)
    cued = float(torch.rand((), generator=generator)) < options.cues
    rate = options.cue_mask_rate if cued else options.mask_rate
    continues = kinds.continues if options.whole_words else None
    masked = choose_masks(ids, rate, special, generator, continues)
    if cued:
        return add_cue(ids, masked, kinds, tokenizer, generator)
    nowhere = torch.zeros(0, dtype=torch.long)
    return Cued(ids.masked_fill(masked, tokenizer.mask_token_id), ids, masked, nowhere, ids)


def keep_memory() -> None:
    """Have glibc keep freed memory: giving it back and faulting it in again takes a third of a
    step on a CPU (M_MMAP_MAX, M_TRIM_THRESHOLD, M_TOP_PAD of mallopt(3))."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        for parameter, value in ((-4, 0), (-1, 2**31 - 1), (-2, 256 * 1024 * 1024)):
            mallopt(parameter, value)


def train(options: argparse.Namespace) -> None:
    """Train until --tokens, --minutes or --slice, checkpointing every --save minutes."""
    files, batches, tokenizer = prepare(options)
    counts = torch.zeros(tokenizer.vocab_size)
    for file in files:
        counts += torch.from_numpy(numpy.bincount(file.ids, minlength=tokenizer.vocab_size))
    counts[torch.tensor(tokenizer.all_special_ids)] = 0
    kinds = find_kinds(numpy.concatenate([file.ids for file in files]), tokenizer)
    trainer = Trainer(options, counts)
    progress = trainer.resume(options.work)
    print(f"{len(batches):,} batches, {json.dumps(progress)}", flush=True)
    if progress["step"] == 0:
        trainer.export(progress)

    def make(number: int) -> Cued:
        generator = torch.Generator().manual_seed(options.seed * 1_000_003 + number)
        ids = fill_batch(batches[number], files, tokenizer.pad_token_id)
        return make_batch(ids, options, kinds, tokenizer, generator)

    numbers = range(progress["step"], len(batches))
    # A CPU has no time to spare for a second thread.
    ready = ahead(make, numbers, 0 if trainer.device.type == "cpu" else 4)
    before, first_tokens, steps = progress["seconds"], progress["tokens"], numbers.start
    operations = waited = saving = places = 0.0
    losses: list[torch.Tensor] = []
    over = False
    started = saved = shown = time.monotonic()
    shown_tokens = progress["tokens"]
    for number in numbers:
        spent = time.monotonic() - started
        progress["seconds"] = round(before + spent, 1)
        done = max((number + 0.5) / len(batches), progress["seconds"] / 60 / options.minutes)
        over = spent > 60 * options.slice and number > numbers.start
        if done >= 1.0 or over:
            break
        began = time.monotonic()
        batch = next(ready)
        waited += time.monotonic() - began
        progress["step"] = number + 1
        if not batch.masked.any():
            continue
        loss = trainer.loss(batch)
        trainer.step(loss, learning_rate(done, options.rate, options.warm_up))
        losses.append(loss.detach())
        operations += trainer.operations(batch)
        progress["tokens"] += int((batch.lines != tokenizer.pad_token_id).sum())
        places += batch.lines.numel()
        now = time.monotonic()
        if now - shown > 15:
            speed = (progress["tokens"] - shown_tokens) / (now - shown)
            print(
                f"step {progress['step']:,} tokens {progress['tokens']:,} "
                f"seconds {progress['seconds']:.0f} loss {float(sum(losses)) / len(losses):.3f} "
                f"tokens/s {speed:,.0f} done {done:.3f}",
                flush=True,
            )
            shown, shown_tokens, losses = now, progress["tokens"], []
        if now - saved > 60 * options.save:
            trainer.save(options.work, progress)
            saved = time.monotonic()
            saving += saved - now
    wait_for(trainer.device)
    trained = time.monotonic() - started - saving
    trainer.save(options.work, progress)
    print(f"{'stopped' if over else 'finished'} {json.dumps(progress)}", flush=True)
    if progress["step"] > steps:
        tokens = progress["tokens"] - first_tokens
        rate, most = operations / trained, matrix_rate(str(trainer.device), options.precision)
        print(
            f"{tokens / trained:,.0f} tokens/s, {rate / 1e12:.3f} TFLOP/s: {rate / most:.0%} of a "
            f"large {options.precision} product's {most / 1e12:.2f}; waiting for batches "
            f"{waited / trained:.1%} of the time; {1 - tokens / places:.1%} padding"
        )
    print(f'autoprompt/models/builtin.py: ADAPTER_DIGEST = "{builtin.file_digest(options.out)}"')


def main() -> None:
    """Read the command line and train."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--text", action="append", required=True, help="FILE or FILE=WEIGHT")
    parser.add_argument("--out", type=Path, help="adapter file to write")
    parser.add_argument("--work", type=Path, help="folder of the checkpoint")
    parser.add_argument("--tokenise", type=Path, help="only tokenise the texts into this folder")
    parser.add_argument("--tokens", type=int, default=12_000_000)
    parser.add_argument("--minutes", type=float, default=math.inf)
    parser.add_argument("--slice", type=float, default=math.inf, help="minutes until a stop")
    parser.add_argument("--save", type=float, default=5.0, help="minutes between checkpoints")
    parser.add_argument("--start", type=Path, help="adapter to begin with")
    parser.add_argument("--cues", type=float, default=0.0, help="share of batches with a cue")
    parser.add_argument("--cue-mask-rate", type=float, default=0.1)
    parser.add_argument("--distil", type=float, default=1.0, help="weight of the embedding's term")
    parser.add_argument("--batch-tokens", type=int, default=6_144)
    parser.add_argument("--longest", type=int, default=128, help="tokens of a line at most")
    parser.add_argument("--mask-rate", type=float, default=0.18)
    parser.add_argument("--whole-words", action="store_true", help="mask all pieces of a word")
    parser.add_argument("--rate", type=float, default=4e-4, help="peak learning rate")
    parser.add_argument("--head-rate", type=float, default=2.5, help="times --rate")
    parser.add_argument("--weight-decay", type=float, default=0.01)
    parser.add_argument("--warm-up", type=float, default=0.05, help="share of the run")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--precision", choices=PRECISIONS, default="auto")
    parser.add_argument("--compile", action="store_true", help="torch.compile the layers")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if options.tokenise is not None:
        write_texts(options)
        return
    if options.out is None or options.work is None:
        parser.error("--out and --work: name both, or --tokenise")
    keep_memory()
    options.work.mkdir(parents=True, exist_ok=True)
    if options.threads:
        torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    options.precision = resolve_precision(options.precision, options.device)
    train(options)


if __name__ == "__main__":
    main()
