"""Template generation, ours against LM-BFF's algorithm written plainly. Prints JSON.

    PYTHONPATH=. python benchmarks/template_speed.py [--runs 3] [--beam 12] [--rows 12]

A random T5 of version 1.1 (d_model 256, 4 + 4 layers) over a made-up vocabulary of 1,000 words;
both search the same beam for the same rows to 18 tokens and must find the same templates with the
same scores. FLOPs of forwards are counted once (`torch.utils.flop_counter`, attention as plain
products so that it is counted alike); time is of pairs of runs in turn, the first a warm-up.
The peer (`plain_templates.py`) reads every item of the beam alone, with the encoder, at every step,
keeps nothing and projects every position.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import plain_templates
import torch
import transformers
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from autoprompt.data.task import Example
from autoprompt.models.load import load_model
from autoprompt.proposals.generation import PLACEMENTS, generate, grammar, shown_row, to_template
from autoprompt.text.tokens import sentinel_ids
from autoprompt.text.verbalizer import Verbalizer

SYLLABLES = ("ba", "ke", "li", "mo", "nu", "ra", "se", "ti", "vo", "zu")
WORDS = tuple(a + b + c for a in SYLLABLES for b in SYLLABLES for c in SYLLABLES)
LENGTHS = (8, 32)
VERBALIZER = Verbalizer((("bad", (WORDS[0],)), ("good", (WORDS[1],))))
ALL = 10**6
LEANING = 12.0


def build(folder: Path) -> Any:
    """A random T5 with its tokenizer; so that it finishes texts, the signs that close a gap lean
    the way in which its states lie."""
    words = transformers.T5Tokenizer(
        vocab=[(name, 0.0) for name in ("<pad>", "</s>", "<unk>", "▁", ".")]
        + [(f"▁{word}", -3.0) for word in WORDS],
        extra_ids=100,
    )
    torch.manual_seed(0)
    config = transformers.T5Config(
        vocab_size=len(words) + 28,
        d_model=256,
        d_kv=64,
        d_ff=1024,
        num_layers=4,
        num_heads=4,
        feed_forward_proj="gated-gelu",
        tie_word_embeddings=False,
        pad_token_id=words.pad_token_id,
        eos_token_id=words.eos_token_id,
        decoder_start_token_id=words.pad_token_id,
    )
    model = transformers.AutoModelForSeq2SeqLM.from_config(config).eval()
    with torch.no_grad():
        model.lm_head.weight.mul_(0.1)
        ids = torch.randint(5, len(WORDS), (16, 16))
        whole = model(input_ids=ids, decoder_input_ids=ids, output_hidden_states=True)
        states = whole.decoder_hidden_states[-1].mean((0, 1))  # [d]
        closing = [*sentinel_ids(words)[:3], words.eos_token_id]
        model.lm_head.weight[closing] += LEANING * states / states.square().sum()
    model.save_pretrained(folder)
    words.save_pretrained(folder)
    return load_model(str(folder), device="cpu", precision="fp32")


def counted(work: Callable[[], Any]) -> tuple[Any, int]:
    """What the work gives, and its FLOPs."""
    counter = FlopCounterMode(display=False)
    with sdpa_kernel(SDPBackend.MATH), counter:
        found = work()
    return found, counter.get_total_flops()


def timed(work: Callable[[], Any]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--beam", type=int, default=12)
    parser.add_argument("--rows", type=int, default=12)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as folder:
        model = build(Path(folder))
    tokenizer = model.tokenizer
    rng = random.Random(0)
    texts = [" ".join(rng.choices(WORDS, k=rng.randint(*LENGTHS))) for _ in range(given.rows)]
    examples = [Example(text, label=("bad", "good")[n % 2]) for n, text in enumerate(texts)]
    placement, signs = PLACEMENTS[0], grammar(tokenizer, "sane")

    def key(tokens: Any) -> str | None:
        template = to_template(tokenizer, tokens, placement)
        return None if template is None else str(template).lower()

    def ours() -> list[tuple[str, float]]:
        found = generate(model, examples, placement, VERBALIZER, wanted=ALL, beam=given.beam)
        return [(str(one.template), one.log_prob) for one in found]

    def plain() -> list[tuple[str, float]]:
        search = plain_templates.Search(
            model._model,
            [shown_row(tokenizer, placement, example, VERBALIZER).ids for example in examples],
            model._model.config.decoder_start_token_id,
            signs.sentinels,
            signs.end,
            signs.stop,
            signs.refused,
            max(tokenizer.get_vocab().values()) + 1,
        )
        return [(str(key(tokens)), score) for tokens, score in search.run(given.beam, "sane", key)]

    (own, own_flops), (peer, peer_flops) = counted(ours), counted(plain)
    if not own or [text for text, _ in own] != [text for text, _ in peer]:
        raise SystemExit("the two found different templates")
    seconds: dict[str, list[float]] = {"ours": [], "plain": []}
    for number in range(given.runs + 1):
        pair = timed(ours), timed(plain)
        if number:
            seconds["ours"].append(pair[0])
            seconds["plain"].append(pair[1])
    ratios = [b / a for a, b in zip(seconds["ours"], seconds["plain"])]
    found = {
        "machine": {
            "processor": platform.processor() or platform.machine(),
            "cores": os.cpu_count(),
            "threads": given.threads,
            "load": os.getloadavg()[0],
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
        "beam": given.beam,
        "rows": given.rows,
        "tokens": plain_templates.STEPS,
        "templates": len(own),
        "largest_difference_of_scores": max(abs(a[1] - b[1]) for a, b in zip(own, peer)),
        "flops": {"ours": own_flops, "plain": peer_flops, "ratio": peer_flops / own_flops},
        "seconds": seconds,
        "time_ratio": statistics.median(ratios),
        "time_ratio_of_pairs": ratios,
    }
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
