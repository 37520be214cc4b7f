"""Train the built-in model's adapter by masked language modelling. Not needed to use autoprompt.

Reads any plain text (one passage a line, .txt or .txt.gz), on CPU or GPU by one command:

    python -m tools.train_builtin_lm --text reviews.txt.gz=0.4 --text news.txt=0.2 ... \
        --tokens 38000000 --work RUN --out RUN/adapter.safetensors

FILE=WEIGHT is the share of the training tokens (default: shares by size). The run ends at --tokens
or --minutes, whichever comes first, and the learning rate falls to zero towards that end. Started
again on the same --work it resumes from its last checkpoint, if texts, seed and all that makes the
run are the same; with --slice MINUTES it stops after so long, to be resumed (exit code 0), as it
does on a signal (75). --start begins with an adapter trained before. Embeddings stay frozen.
With --decay 0 the rate never falls, for a run of more --tokens than there is time for; with --means
MINUTES the mean of the weights over every so many minutes is kept in --work as an adapter, and
tools/average_builtin_lm.py makes one of several.
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
import signal
import sys
import threading
import time
from typing import Any

import numpy
import torch

from autoprompt.models import builtin
from autoprompt.models.meter import matrix_rate
from tools.lm_cues import Cued, Kinds, add_cue, find_kinds
from tools.lm_errors import RETRY, DataError, exit_code
from tools.lm_options import TOKENS, check, check_same, parse, run_settings, token_name
from tools.lm_rate import wait_for
from tools.lm_text import (
    Lines,
    ahead,
    choose_masks,
    cut_batches,
    divide_all,
    draw_lines,
    fill_batch,
    read_lines,
    read_tokens,
    tokenise,
    write_tokens,
)
from tools.lm_trainer import Mean, Trainer, read_progress


def learning_rate(done: float, peak: float, warm_up: float, decay: float) -> float:
    """Linear warm-up over the first `warm_up` share of the run; linear decay to zero over the last
    `decay` of what follows."""
    rising = done / warm_up if warm_up > 0 else 1.0
    falling = max(0.0, 1.0 - done) / (1.0 - warm_up) / decay if decay > 0 else 1.0
    return peak * min(rising, falling, 1.0)


def read_texts(options: argparse.Namespace, tokenizer: Any) -> list[Lines]:
    """Each text's training lines as token ids, in random order."""
    made = {
        "tokenizer": builtin.PACKAGE_DIGESTS["tokenizer.json"],
        "longest": str(options.longest),
    }
    plain = [text.path for text in options.text if text.path.suffix != TOKENS]
    divided = dict(zip(plain, divide_all([read_lines(path) for path in plain]), strict=True))
    files = []
    for path, _ in options.text:
        if path.suffix == TOKENS:
            files.append(read_tokens(path, made, tokenizer.vocab_size))
            continue
        training, held = divided[path]
        random.Random(options.seed).shuffle(training)
        lines = tokenise(training, tokenizer, options.longest)
        if not len(lines.ids):
            raise DataError(f"--text {path}: has no line with a word; leave it out")
        print(
            f"{path.name}: {len(lines.starts) - 1:,} lines, {len(lines.ids):,} tokens, "
            f"{held:,} lines held out",
            flush=True,
        )
        files.append(lines)
        if options.tokenise is not None:
            write_tokens(options.tokenise / token_name(path), lines, made)
    return files


def prepare(
    options: argparse.Namespace, tokenizer: Any
) -> tuple[list[Lines], list[list[tuple[int, int]]]]:
    """Read and tokenise the files, draw the mix, cut it into batches."""
    files = read_texts(options, tokenizer)
    weights = [text.weight or len(file.ids) for text, file in zip(options.text, files, strict=True)]
    sizes = [numpy.diff(file.starts) for file in files]
    shares = [weight / sum(weights) for weight in weights]
    rng = random.Random(options.seed)
    chosen = draw_lines(sizes, shares, options.tokens, rng)
    return files, cut_batches(chosen, sizes, options.batch_tokens, rng)


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


def asked_to_stop() -> threading.Event:
    """Set by the first SIGINT or SIGTERM; a second one ends the program at once."""
    asked = threading.Event()

    def stop(number: int, _: Any) -> None:
        asked.set()
        signal.signal(number, signal.SIG_DFL)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    return asked


def train(options: argparse.Namespace, tokenizer: Any) -> int:
    """Train until --tokens, --minutes, --slice or a signal, checkpointing every --save minutes."""
    settings = run_settings(options)
    found = read_progress(options.work)
    if found is not None:
        check_same(found[1], settings, options.work)
    if options.start is not None:
        builtin.open_adapter(options.start)  # before the texts, which take long
    files, batches = prepare(options, tokenizer)
    counts = torch.zeros(tokenizer.vocab_size)
    for file in files:
        counts += torch.from_numpy(numpy.bincount(file.ids, minlength=tokenizer.vocab_size))
    counts[torch.tensor(tokenizer.all_special_ids)] = 0
    kinds = find_kinds(numpy.concatenate([file.ids for file in files]), tokenizer)
    trainer = Trainer(options, counts)
    progress = found[0] if found else {"step": 0, "tokens": 0, "seconds": 0.0, "meant": 0.0}
    mean = trainer.resume(options.work, progress["averaged"]) if found else Mean(trainer.learned)
    for path in options.work.glob("mean.*.safetensors"):  # of steps that are now repeated
        if int(path.suffixes[-2][1:]) > progress["step"]:
            path.unlink()
    print(f"{len(batches):,} batches, {json.dumps(progress)}", flush=True)
    if progress["step"] == 0:
        trainer.export(progress)

    def make(number: int) -> Cued:
        generator = torch.Generator().manual_seed(options.seed * 1_000_003 + number)
        ids = fill_batch(batches[number], files, tokenizer.pad_token_id)
        return make_batch(ids, options, kinds, tokenizer, generator)

    def keep_mean() -> Mean:
        trainer.check_numbers()
        path = options.work / f"mean.{progress['step']}.safetensors"
        trainer.write(mean.weights, path, progress)
        progress["meant"] = progress["seconds"]
        return Mean(trainer.learned)

    asked = asked_to_stop()
    numbers = range(progress["step"], len(batches))
    # A CPU has no time to spare for a second thread.
    ready = ahead(make, numbers, 0 if trainer.device.type == "cpu" else 4)
    before, first_tokens = progress["seconds"], progress["tokens"]
    operations = waited = saving = places = 0.0
    losses: list[torch.Tensor] = []
    over = False
    started = saved = shown = time.monotonic()
    shown_tokens = progress["tokens"]
    for number in numbers:
        spent = time.monotonic() - started
        progress["seconds"] = round(before + spent, 1)
        done = max((number + 0.5) / len(batches), progress["seconds"] / 60 / options.minutes)
        over = asked.is_set() or (spent > 60 * options.slice and number > numbers.start)
        if done >= 1.0 or over:
            break
        began = time.monotonic()
        batch = next(ready)
        waited += time.monotonic() - began
        progress["step"] = number + 1
        if not batch.masked.any():
            continue
        loss = trainer.loss(batch)
        trainer.step(loss, learning_rate(done, options.rate, options.warm_up, options.decay))
        if options.means < math.inf:
            mean.add(trainer.learned)
        losses.append(loss.detach())
        operations += trainer.operations(batch) + trainer.update_operations
        progress["tokens"] += int((batch.lines != tokenizer.pad_token_id).sum())
        places += batch.lines.numel()
        now = time.monotonic()
        if now - shown > 15:
            speed = (progress["tokens"] - shown_tokens) / (now - shown)
            mean_loss = float(sum(losses)) / len(losses)
            trainer.check_numbers(mean_loss)
            print(
                f"step {progress['step']:,} tokens {progress['tokens']:,} "
                f"seconds {progress['seconds']:.0f} loss {mean_loss:.3f} "
                f"tokens/s {speed:,.0f} done {done:.3f}",
                flush=True,
            )
            shown, shown_tokens, losses = now, progress["tokens"], []
        full = progress["seconds"] - progress["meant"] > 60 * options.means
        if full:
            mean = keep_mean()
        if full or now - saved > 60 * options.save:
            trainer.save(options.work, progress, settings, mean)
            saved = time.monotonic()
            saving += saved - now
    wait_for(trainer.device)
    trained = time.monotonic() - started - saving
    if mean.count and not over:
        mean = keep_mean()
    trainer.save(options.work, progress, settings, mean)
    print(f"{'stopped' if over else 'finished'} {json.dumps(progress)}", flush=True)
    if places:
        tokens = progress["tokens"] - first_tokens
        rate, most = operations / trained, matrix_rate(str(trainer.device), options.precision)
        print(
            f"{tokens / trained:,.0f} tokens/s, {rate / 1e12:.3f} TFLOP/s: {rate / most:.0%} of a "
            f"large {options.precision} product's {most / 1e12:.2f}; waiting for batches "
            f"{waited / trained:.1%} of the time; {1 - tokens / places:.1%} padding"
        )
    print(f'autoprompt/models/builtin.py: ADAPTER_DIGEST = "{builtin.file_digest(options.out)}"')
    return RETRY if over and asked.is_set() else 0


def run(options: argparse.Namespace) -> int:
    """Check the command line, then tokenise or train."""
    check(options)
    folder = builtin.sentence_encoder_path()
    builtin.check_package(folder)
    tokenizer = builtin.load_tokenizer(folder)
    if options.tokenise is not None:
        options.tokenise.mkdir(parents=True, exist_ok=True)
        read_texts(options, tokenizer)
        return 0
    keep_memory()
    options.work.mkdir(parents=True, exist_ok=True)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    if options.threads:
        torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    return train(options, tokenizer)


def main() -> int:
    """Read the command line and train."""
    options = parse(__doc__.splitlines()[0])
    return exit_code(lambda: run(options))


if __name__ == "__main__":
    sys.exit(main())
