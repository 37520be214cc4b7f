"""Train the built-in model's adapter by masked language modelling. Not needed to use autoprompt.

Reads any plain text (one passage a line, .txt or .txt.gz), on CPU or GPU by one command:

    python -m tools.train_builtin_lm --text reviews.txt.gz=0.5 --text news.txt=0.2 ... \
        --tokens 12000000 --minutes 45 --work RUN --out autoprompt/models/builtin_lm.safetensors

FILE=WEIGHT is the share of the training tokens (default: shares by size). The run ends at --tokens
or --minutes, whichever comes first, and the learning rate falls to zero towards that end. Started
again on the same --work it resumes from its last checkpoint; --start begins with an adapter that
was trained before. Embeddings stay frozen.
A share of the batches (--cues) shows each line with a cue that asks for one of its words
(tools/lm_cues.py); there the state at the cue's mask also learns to tell the sentence encoder's
embedding of the line (--distil), so that one position knows what the whole line is about.
Run from the repository root. tools/evaluate_builtin_lm.py measures the result.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import math
import os
import random
import time
from pathlib import Path
from typing import Any

import numpy
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional

from autoprompt.models import builtin
from tools.lm_cues import PROJECTION, Cued, Kinds, add_cue, find_kinds
from tools.lm_loss import SLICE, VocabularyLoss
from tools.lm_rate import matrix_rate, step_operations
from tools.lm_text import (
    Lines,
    choose_masks,
    cut_batches,
    divide,
    draw_lines,
    fill_batch,
    read_lines,
    tokenise,
)


def initial_head(counts: torch.Tensor, width: int) -> dict[str, torch.Tensor]:
    """A head that starts well: identity transform, output bias = log unigram frequency."""
    frequency = (counts.float() + 0.5) / (counts.sum() + 0.5 * len(counts))
    prefix = builtin.HEAD_PREFIX
    return {
        prefix + "transform.dense.weight": torch.eye(width),
        prefix + "transform.dense.bias": torch.zeros(width),
        prefix + "transform.LayerNorm.weight": torch.full((width,), 0.5),
        prefix + "transform.LayerNorm.bias": torch.zeros(width),
        prefix + "bias": frequency.log(),
    }


def quantise(
    weights: dict[str, torch.Tensor], encoder: dict[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """The adapter's tensors: int8 rows with a scale for matrices, fp16 for all else."""
    adapter: dict[str, torch.Tensor] = {}
    for name, weight in weights.items():
        if name not in encoder:
            adapter[f"set/{name}"] = weight.half()
            continue
        change = weight - encoder[name]
        if change.dim() == 1:
            adapter[f"add/{name}"] = change.half()
            continue
        # The scale is rounded first, so that rounding it costs nothing afterwards.
        scale = (change.abs().amax(dim=1, keepdim=True) / 127).clamp_min(1e-7).float()
        adapter[f"int8/{name}"] = (change / scale).round().clamp(-127, 127).to(torch.int8)
        adapter[f"scale/{name}"] = scale
    return adapter


def write_safely(tensors: dict[str, torch.Tensor], path: Path, metadata: dict[str, str]) -> None:
    """Write under another name, then rename: a killed run leaves the old file whole."""
    temporary = path.with_name(path.name + ".new")
    save_file({k: v.contiguous() for k, v in tensors.items()}, temporary, metadata=metadata)
    temporary.chmod(0o644)
    os.replace(temporary, path)


class Trainer:
    """Holds the bf16 copy that computes, the fp32 weights that learn, and the optimiser."""

    def __init__(self, options: argparse.Namespace, counts: torch.Tensor) -> None:
        folder = builtin.sentence_encoder_path()
        builtin.check_package(folder)
        bare, self.encoder = builtin.bare_model(folder)
        bare.config._attn_implementation = "eager"  # flash attention in bf16 is slow on a CPU
        bare.config.hidden_dropout_prob = bare.config.attention_probs_dropout_prob = 0.0
        start = {**self.encoder, **initial_head(counts, bare.config.hidden_size)}
        if options.start is not None:
            start = builtin.adapted(self.encoder, load_file(options.start))
        model: Any = builtin.assemble(bare, start)
        self.device = torch.device(options.device)
        self.model = model.to(self.device, dtype=torch.bfloat16)
        self.teacher = self.sentence_encoder(folder)
        self.computed = dict(model.named_parameters())
        self.names = [n for n in self.computed if ".embeddings." not in n]
        for name, parameter in self.computed.items():
            parameter.requires_grad_(name in self.names)
        # From an answer's state to the sentence's embedding; needed in training alone.
        start[PROJECTION] = torch.eye(bare.config.hidden_size)
        self.computed[PROJECTION] = torch.nn.Parameter(start[PROJECTION].bfloat16().to(self.device))
        self.names.append(PROJECTION)
        self.learned = {n: start[n].clone().to(self.device) for n in self.names}
        groups = [
            {"params": [self.learned[n] for n in self.names if self.decays(n)], "head": False},
            {"params": [self.learned[n] for n in self.names if not self.decays(n)], "head": True},
        ]
        groups[0]["weight_decay"], groups[1]["weight_decay"] = options.weight_decay, 0.0
        self.optimiser = torch.optim.AdamW(groups, lr=0.0, betas=(0.9, 0.98), eps=1e-6, fused=True)
        self.options = options
        self.bias = self.learned[builtin.HEAD_PREFIX + "bias"].requires_grad_(True)

    @staticmethod
    def decays(name: str) -> bool:
        """Encoder matrices decay; the head, biases and norms do not, and learn faster."""
        return name.endswith("weight") and "LayerNorm" not in name and not name.startswith("cls.")

    def sentence_encoder(self, folder: Path) -> Any:
        """The package's encoder as it is."""
        bare, weights = builtin.bare_model(folder)
        bare.config._attn_implementation = "eager"
        head = initial_head(torch.ones(bare.config.vocab_size), bare.config.hidden_size)
        whole: Any = builtin.assemble(bare, {**weights, **head})
        return whole.bert.to(self.device, dtype=torch.bfloat16).requires_grad_(False)

    @torch.no_grad()
    def meanings(self, ids: torch.Tensor) -> torch.Tensor:
        """Sentence embeddings [lines, width] of whole lines, nothing masked."""
        attention = (ids != self.model.config.pad_token_id).long()
        states = self.teacher(input_ids=ids, attention_mask=attention).last_hidden_state
        return (states.float() * attention[..., None]).sum(dim=1)  # its length does not matter

    def loss(self, batch: Cued) -> torch.Tensor:
        """Mean cross-entropy of the masked tokens; with cues also how far each cue's state is from
        telling its line's embedding (1 - cosine)."""
        shown, targets, masked, places = (t.to(self.device) for t in batch[:4])
        attention = (shown != self.model.config.pad_token_id).long()
        states = self.model.bert(input_ids=shown, attention_mask=attention).last_hidden_state
        transform = self.model.cls.predictions.transform
        chosen = masked.flatten().nonzero()[:, 0]
        count = len(chosen)
        chosen = functional.pad(chosen, (0, -count % SLICE), value=int(chosen[0]))
        hidden = transform(states.flatten(0, 1)[chosen])  # [masked and padding, width]
        decoder = self.model.bert.embeddings.word_embeddings.weight
        loss = VocabularyLoss.apply(hidden, self.bias, decoder, targets.flatten()[chosen], count)
        if len(places) == 0 or not self.options.distil:
            return loss
        answers = transform(states[torch.arange(len(places)), places])  # [lines, width]
        told = functional.linear(answers, self.computed[PROJECTION]).float()
        near = functional.cosine_similarity(told, self.meanings(batch.lines.to(self.device)))
        return loss + self.options.distil * (1.0 - near).mean()

    def step(self, loss: torch.Tensor, rate: float) -> None:
        """One optimiser step; gradients of the bf16 copy move the fp32 weights."""
        loss.backward()
        matrices = [n for n in self.names if self.learned[n] is not self.bias]
        for name in matrices:
            gradient = self.computed[name].grad  # none of the projection in a batch without cues
            learned = self.learned[name]
            learned.grad = torch.zeros_like(learned) if gradient is None else gradient.float()
            self.computed[name].grad = None
        torch.nn.utils.clip_grad_norm_([self.learned[n] for n in self.names], 1.0)
        for group in self.optimiser.param_groups:
            group["lr"] = rate * (self.options.head_rate if group["head"] else 1.0)
        self.optimiser.step()
        self.bias.grad = None
        self.refresh()

    @torch.no_grad()
    def refresh(self) -> None:
        """Copy the fp32 weights into the bf16 model."""
        for name in self.names:
            self.computed[name].copy_(self.learned[name])

    def save(self, folder: Path, progress: dict[str, Any]) -> None:
        """Write a checkpoint (weights, optimiser state, progress) and the adapter."""
        state = {f"weight/{n}": self.learned[n].detach().cpu() for n in self.names}
        for name in self.names:
            for key, value in self.optimiser.state[self.learned[name]].items():
                state[f"{key}/{name}"] = value.cpu()
        write_safely(state, folder / "checkpoint.safetensors", {"progress": json.dumps(progress)})
        self.export(progress)

    def export(self, progress: dict[str, Any]) -> None:
        """Write the adapter file."""
        weights = {n: self.learned[n].detach().cpu() for n in self.names if n != PROJECTION}
        metadata = {
            "format": builtin.ADAPTER_FORMAT,
            "encoder": builtin.PACKAGE_DIGESTS["model.safetensors"],
            "progress": json.dumps(progress),
        }
        write_safely(quantise(weights, self.encoder), self.options.out, metadata)

    def resume(self, folder: Path) -> dict[str, Any]:
        """Load the last checkpoint of `folder`, if any; return its progress."""
        from safetensors import safe_open

        path = folder / "checkpoint.safetensors"
        if not path.is_file():
            return {"step": 0, "tokens": 0, "seconds": 0.0}
        with safe_open(path, framework="pt") as handle:
            progress = json.loads(handle.metadata()["progress"])
        stored = load_file(path)
        with torch.no_grad():
            for name in self.names:
                self.learned[name].copy_(stored[f"weight/{name}"])
                self.optimiser.state[self.learned[name]] = {
                    key: stored[f"{key}/{name}"].to(self.device)
                    for key in ("step", "exp_avg", "exp_avg_sq")
                }
        self.refresh()
        return progress


def learning_rate(done: float, peak: float, warm_up: float) -> float:
    """Linear warm-up over the first `warm_up` share of the run, then linear decay to zero."""
    rising = done / warm_up if warm_up > 0 else 1.0
    return peak * min(rising, max(0.0, 1.0 - done) / (1.0 - warm_up))


def prepare(options: argparse.Namespace) -> tuple[list[Lines], list[list[tuple[int, int]]], Any]:
    """Read and tokenise the files, draw the mix, cut it into batches."""
    tokenizer = builtin.load_tokenizer(builtin.sentence_encoder_path())
    files, weights = [], []
    for text in options.text:
        path, _, weight = text.partition("=")
        training, held = divide(read_lines(Path(path)))
        # No more lines than the run can use: tokenising is the slow part of the start.
        random.Random(options.seed).shuffle(training)
        if weight:
            training = training[: math.ceil(float(weight) * options.tokens / 12)]
        files.append(tokenise(training, tokenizer, options.longest))
        weights.append(float(weight) if weight else float(len(files[-1].ids)))
        print(
            f"{Path(path).name}: {len(training):,} lines, {len(files[-1].ids):,} tokens, "
            f"{len(held):,} lines held out",
            flush=True,
        )
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
    """Train until --tokens or --minutes, checkpointing every --save minutes."""
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
    started = saved = shown = time.monotonic()
    before, losses, shown_tokens = progress["seconds"], [], progress["tokens"]
    first_tokens, operations, reading, trained = progress["tokens"], 0.0, 0.0, 0.0
    for number in range(progress["step"], len(batches)):
        progress["seconds"] = round(before + time.monotonic() - started, 1)
        done = max((number + 0.5) / len(batches), progress["seconds"] / 60 / options.minutes)
        if done >= 1.0:
            break
        began = time.monotonic()
        ids = fill_batch(batches[number], files, tokenizer.pad_token_id)
        generator = torch.Generator().manual_seed(options.seed * 1_000_003 + number)
        batch = make_batch(ids, options, kinds, tokenizer, generator)
        if not batch.masked.any():
            continue
        reading += time.monotonic() - began
        loss = trainer.loss(batch)
        trainer.step(loss, learning_rate(done, options.rate, options.warm_up))
        losses.append(loss.item())
        trained += time.monotonic() - began
        lines, length = batch.shown.shape
        taught = len(batch.places) if options.distil else 0
        operations += step_operations(
            trainer.model.config, lines, length, int(batch.masked.sum()), taught
        )
        progress["tokens"] += int((ids != tokenizer.pad_token_id).sum())
        progress["step"] = number + 1
        now = time.monotonic()
        if now - shown > 15:
            speed = (progress["tokens"] - shown_tokens) / (now - shown)
            print(
                f"step {progress['step']:,} tokens {progress['tokens']:,} "
                f"seconds {progress['seconds']:.0f} loss {sum(losses) / len(losses):.3f} "
                f"tokens/s {speed:,.0f} done {done:.3f}",
                flush=True,
            )
            shown, shown_tokens, losses = now, progress["tokens"], []
        if now - saved > 60 * options.save:
            trainer.save(options.work, progress)
            saved = now
    trainer.save(options.work, progress)
    print(f"finished {json.dumps(progress)}", flush=True)
    if trained:
        speed = (progress["tokens"] - first_tokens) / trained
        rate, most = operations / trained, matrix_rate(trainer.device)
        print(
            f"{speed:,.0f} tokens/s, {rate / 1e12:.3f} TFLOP/s: {rate / most:.0%} of a large bf16 "
            f"product's {most / 1e12:.2f}; reading and masking {reading / trained:.1%} of a step"
        )
    print(f'autoprompt/models/builtin.py: ADAPTER_DIGEST = "{builtin.file_digest(options.out)}"')


def main() -> None:
    """Read the command line and train."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--text", action="append", required=True, help="FILE or FILE=WEIGHT")
    parser.add_argument("--out", type=Path, required=True, help="adapter file to write")
    parser.add_argument("--work", type=Path, required=True, help="folder of the checkpoint")
    parser.add_argument("--tokens", type=int, default=12_000_000)
    parser.add_argument("--minutes", type=float, default=math.inf)
    parser.add_argument("--save", type=float, default=5.0, help="minutes between checkpoints")
    parser.add_argument("--start", type=Path, help="adapter to begin with")
    parser.add_argument("--cues", type=float, default=0.3, help="share of batches with a cue")
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
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    keep_memory()
    options.work.mkdir(parents=True, exist_ok=True)
    if options.threads:
        torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    train(options)


if __name__ == "__main__":
    main()
