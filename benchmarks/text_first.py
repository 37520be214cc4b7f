"""Seconds of a training step behind kept texts, against one over whole rows. Prints JSON.

    PYTHONPATH=. python benchmarks/text_first.py [--text 64 ...] [--steps 30] [--runs 5]

A random GPT-2, a frozen model, a soft prompt before the cue; rows of `text` tokens, the prompt and
a cue of 7. Both ways alternate, the first pair is a warm-up. Also says how far apart the losses are
and what reading the kept texts costs, in steps.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch.nn import functional
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from autoprompt.models.device import resolve_precision
from autoprompt.models.heads import bare_head
from autoprompt.models.inputs import PromptEncoder
from autoprompt.models.resident import Resident, longest_input
from autoprompt.prompts.base import Vectors
from autoprompt.text.placement import place
from autoprompt.text.template import parse, render

BATCH, EXAMPLES = 8, 32
TEMPLATE = "{text} It was {mask}"


def resident(layers: int, size: int, device: str, precision: str) -> Resident:
    """A random model whose tokens are bytes."""
    letters = {letter: n for n, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    made = Tokenizer(models.BPE(vocab=letters, merges=[]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=made, model_max_length=512)
    config = GPT2Config(
        vocab_size=len(letters),
        n_positions=512,
        n_embd=size,
        n_layer=layers,
        n_head=size // 64,
        bos_token_id=0,
        eos_token_id=0,
    )
    torch.manual_seed(0)
    model = GPT2LMHeadModel(config)
    return Resident(
        model,
        tokenizer,
        encoder=PromptEncoder(tokenizer, longest_input(model, tokenizer), kind="causal"),
        head=bare_head(model),
        name="random",
        revision="",
        device=device,
        precision=resolve_precision(precision, device),
        advice="",
    )


def compare(backbone: Resident, text: int, prompt: int, steps: int, runs: int) -> dict[str, Any]:
    """Both ways over rows of one length of text."""
    placed = place(parse(TEMPLATE), "before_cue", prompt)
    texts = ["".join(chr(97 + (n * k) % 26) for k in range(text)) for n in range(EXAMPLES)]
    rows = [backbone.encode(render(placed.template, words)) for words in texts]
    words = torch.tensor([5, 6], device=backbone.device)
    targets = torch.arange(BATCH, device=backbone.device) % 2
    start = time.perf_counter()
    kept = [backbone.beginning(row.ids[: row.soft[0]]) for row in rows]
    reading = time.perf_counter() - start
    seconds: dict[str, list[float]] = {"whole": [], "kept": []}
    losses: dict[str, list[float]] = {"whole": [], "kept": []}
    for run in range(runs + 1):
        for way in seconds:
            leaf = backbone.embed(words[:1]).repeat(prompt, 1).requires_grad_(True)
            start = time.perf_counter()
            for step in range(steps):
                chosen = [(step * BATCH + n) % EXAMPLES for n in range(BATCH)]
                parts = [kept[n] for n in chosen] if way == "kept" else []
                inputs = backbone.batch([rows[n] for n in chosen], parts)
                inputs = Vectors(leaf).insert(inputs, backbone)
                loss = functional.cross_entropy(
                    backbone.answer_logits(inputs, words)[:, 0], targets
                )
                loss.backward()
                losses[way].append(loss.item())
            if run:
                seconds[way].append((time.perf_counter() - start) / steps)
    whole, quick = (statistics.median(values) for values in seconds.values())
    pairs = zip(losses["whole"], losses["kept"], strict=True)
    return {
        "tokens": {"row": len(rows[0].ids), "read_each_step": len(rows[0].ids) - rows[0].soft[0]},
        "seconds_a_step": {"whole": whole, "kept": quick},
        "ratio": quick / whole,
        "ratio_of_pairs": [b / a for a, b in zip(*seconds.values(), strict=True)],
        "reading_the_texts_in_whole_steps": reading / whole,
        "losses_apart": max(abs(a - b) for a, b in pairs),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--text", type=int, nargs="+", default=[64])
    parser.add_argument("--prompt", type=int, default=8)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", default="fp32")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    backbone = resident(arguments.layers, arguments.size, arguments.device, arguments.precision)
    found = {
        "machine": {
            "cores": os.cpu_count(),
            "threads": arguments.threads,
            "device": arguments.device,
            "precision": backbone.precision,
            "load": os.getloadavg()[0],
            "torch": torch.__version__,
        },
        "model": {"layers": arguments.layers, "size": arguments.size},
        "batch_size": BATCH,
        "results": [
            compare(backbone, text, arguments.prompt, arguments.steps, arguments.runs)
            for text in arguments.text
        ],
    }
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
