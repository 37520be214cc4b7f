"""Steps per second of tuning a hard prompt, ours against transformers.Trainer. Prints JSON.

    PYTHONPATH=. python benchmarks/hard_prompt_speed.py [--steps 40] [--runs 3] [--threads N]

The built-in model, batch 8, fp32 and bf16; runs alternate, the first pair of each is a warm-up and
only the loops are timed. Same model, precision, batch order, padding and optimiser; dropout 0 for
the peer too. Also says how far apart the first 20 losses are.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import io
import json
import os
import platform
import statistics
import time
from typing import Any

import torch
import trainer_peer
import transformers
from torch.nn import functional

from autoprompt.learners.training import Optimiser, Settings, batches
from autoprompt.models.masked import load_masked
from autoprompt.models.resident import Resident
from autoprompt.text.template import parse, render

SUBJECTS = (
    "the film",
    "this phone",
    "our dinner",
    "her new book",
    "the hotel room",
    "that meeting",
)
VERDICTS = (
    "was far better than I had hoped when we first heard of it",
    "broke after a day and nobody answered my letters",
    "is fine",
    "made everyone in the room laugh until the very end",
    "cost too much for what it was, and the service was slow and rude",
)
WORDS = ("terrible", "great")


def own_run(
    backbone: Resident,
    optimiser: Optimiser,
    rows: list[Any],
    targets: list[int],
    word_ids: list[int],
    settings: Settings,
) -> tuple[list[float], float]:
    """Losses of one fit, and the seconds of its loop."""
    wanted, answers = torch.tensor(targets), torch.tensor(word_ids)
    wanted, answers = wanted.to(backbone.device), answers.to(backbone.device)
    losses: list[float] = []
    used = torch.tensor(sorted({token for row in rows for token in row.ids}))
    trainable = backbone.weights.start(used, answers)

    def batch_loss(chosen: list[int]) -> torch.Tensor:
        logits = backbone.answer_logits(backbone.batch([rows[row] for row in chosen]), answers)
        return functional.cross_entropy(logits[:, 0], wanted[chosen])

    start = time.perf_counter()
    shrink = optimiser.run(
        trainable,
        batch_loss,
        batches(len(rows), settings, seed=0),
        settings,
        on_step=lambda _, loss: losses.append(loss),
    )
    seconds = time.perf_counter() - start
    backbone.weights.finish(shrink)
    return losses, seconds


def peer_run(
    pristine: Any,
    backbone: Resident,
    rows: list[Any],
    targets: list[int],
    word_ids: list[int],
    settings: Settings,
) -> tuple[list[float], float]:
    """The same by Trainer, on a fresh copy."""
    model = copy.deepcopy(pristine)
    silence = io.StringIO()
    with contextlib.redirect_stdout(silence):
        watch = trainer_peer.train(
            model,
            rows,
            targets,
            word_ids,
            settings,
            seed=0,
            pad_id=backbone.tokenizer.pad_token_id,
            segments=True,
            bf16=backbone.precision == "bf16",
        )
    return watch.losses, watch.seconds


def compare(precision: str, device: str, settings: Settings, runs: int) -> dict[str, Any]:
    """Alternating runs of both in one precision."""
    backbone = load_masked("builtin", device=device, precision=precision)
    pristine = load_masked("builtin", device=device, precision="fp32")._model
    pristine.requires_grad_(True)
    for name in ("hidden_dropout_prob", "attention_probs_dropout_prob"):
        setattr(pristine.config, name, 0.0)
    for module in pristine.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        if hasattr(module, "dropout_prob"):
            module.dropout_prob = 0.0
    if precision == "bf16" and device == "cpu":
        pristine.set_attn_implementation("eager")  # the peer gets the faster attention too
    template = parse("{text} It was {mask}.")
    texts = [f"{subject} {verdict}" for verdict in VERDICTS for subject in SUBJECTS] * 2
    rows = [backbone.encode(render(template, text)) for text in texts[:32]]
    targets = [index % 2 for index in range(len(rows))]
    word_ids = backbone.tokenizer.convert_tokens_to_ids(list(WORDS))
    optimiser = Optimiser()
    seconds: dict[str, list[float]] = {"ours": [], "trainer": []}
    losses: dict[str, list[float]] = {}
    for number in range(runs + 1):
        found, took = own_run(backbone, optimiser, rows, targets, word_ids, settings)
        losses["ours"] = found
        peer, peer_took = peer_run(pristine, backbone, rows, targets, word_ids, settings)
        losses["trainer"] = peer
        if number:
            seconds["ours"].append(took)
            seconds["trainer"].append(peer_took)
    apart = [abs(a - b) for a, b in zip(losses["ours"][:20], losses["trainer"][:20])]
    rates = {who: [settings.steps / t for t in times] for who, times in seconds.items()}
    return {
        "precision": precision,
        "steps_per_second": {who: statistics.median(values) for who, values in rates.items()},
        "runs": rates,
        "ratio": statistics.median(rates["ours"]) / statistics.median(rates["trainer"]),
        "ratio_of_pairs": [a / b for a, b in zip(rates["ours"], rates["trainer"])],
        "first_20_losses_apart": max(apart),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", nargs="+", default=["fp32", "bf16"])
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    transformers.logging.set_verbosity_error()
    settings = Settings(learning_rate=5e-5, steps=arguments.steps, batch_size=8)
    found = {
        "machine": {
            "processor": platform.processor() or platform.machine(),
            "cores": os.cpu_count(),
            "threads": arguments.threads,
            "device": arguments.device,
            "load": os.getloadavg()[0],
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
        "batch_size": settings.batch_size,
        "steps": settings.steps,
        "results": [
            compare(precision, arguments.device, settings, arguments.runs)
            for precision in arguments.precision
        ],
    }
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
