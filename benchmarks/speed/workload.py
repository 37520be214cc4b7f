"""What every arm of the speed benchmarks does: the same rows, prompt, steps and models."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from autoprompt.data.readers import read
from autoprompt.data.splits import Block, draw_shots
from autoprompt.data.task import Example, Task, make_task
from autoprompt.models.builtin import export_builtin, load_builtin

#: Prompt tokens, rows of a step, steps of a candidate, rows it is scored on.
LENGTH, BATCH, STEPS, SCORED = 16, 8, 100, 64
SHOTS = 16
TEMPLATE = "{text} It was {mask}."
WORDS = {"negative": "terrible", "positive": "great"}
#: Of models with random weights: layers, width, heads, inner width.
SHAPES = {"roberta-base": (12, 768, 12, 3072), "roberta-large": (24, 1024, 16, 4096)}


@dataclass(frozen=True)
class Workload:
    """Rows to train on come first in `rows`, then those to score."""

    task: Task
    rows: tuple[Example, ...]
    train: int
    model: str
    device: str
    precision: str
    steps: int

    @property
    def block(self) -> Block:
        held = range(self.train, len(self.rows))
        return Block("search", 0, 0, 0, tuple(range(self.train)), tuple(held))


def sst2_rows(data: Path) -> tuple[tuple[Example, ...], int]:
    """16 training rows a class of DATA/sst2, behind them 64 others; and how many come first."""
    given = read(str(data / "sst2" / "train.jsonl")).examples
    drawn = draw_shots(given, SHOTS, seed=0).rows
    texts = {row.text for row in drawn}
    rest = [row for row in given if row.text not in texts]
    scored = draw_shots(rest, SCORED // 2, seed=1).rows
    return (*drawn, *scored), len(drawn)


@contextmanager
def workload(data: Path, model: str, device: str, precision: str, steps: int) -> Iterator[Workload]:
    """model: `builtin`, or a name of SHAPES, whose random weights are written to a folder that goes
    again."""
    rows, train = sst2_rows(data)
    with TemporaryDirectory() as folder:
        name = model if model == "builtin" else _random_folder(model, Path(folder))
        if model == "builtin":
            # the peers read a folder, as everybody's model is one
            export_builtin(Path(folder))
            name = folder
        yield Workload(make_task(rows), rows, train, name, device, precision, steps)


def random_model(shape: str) -> Any:
    """RoBERTa of that size with random weights."""
    import transformers

    layers, width, heads, inner = SHAPES[shape]
    _, tokenizer = load_builtin()
    torch.manual_seed(0)
    config = transformers.RobertaConfig(
        vocab_size=50_265,
        num_hidden_layers=layers,
        hidden_size=width,
        num_attention_heads=heads,
        intermediate_size=inner,
        max_position_embeddings=514,
        type_vocab_size=1,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.cls_token_id,
        eos_token_id=tokenizer.sep_token_id,
    )
    return transformers.RobertaForMaskedLM(config)


def _random_folder(shape: str, folder: Path) -> str:
    """It with the built-in model's vocabulary."""
    random_model(shape).save_pretrained(folder)
    _, tokenizer = load_builtin()
    tokenizer.model_input_names = ["input_ids", "attention_mask"]
    tokenizer.save_pretrained(folder)
    return str(folder)
