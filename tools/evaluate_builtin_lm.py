"""Measure the built-in masked LM: held-out masked accuracy and zero-shot accuracy. Trains nothing.

    python -m tools.evaluate_builtin_lm --text reviews.txt.gz --text news.txt.gz --data DATA

--text: the texts given to the training (not their .tokens); the same 2,000 lines of each are held
out by hash, 15 % of their word pieces drawn uniformly (--seed), each replaced by [MASK]. --data: a
folder with sst2/test.jsonl and so on; the first --rows test rows are classified without any label,
by the label words' logits minus their mean over the texts of the first --rows training rows (the
prior); of a text the first 200 word pieces are read.
--weights measures a checkpoint or another adapter than the shipped one.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import time
from pathlib import Path
from typing import Any

import torch

from autoprompt.models import builtin
from tools.lm_cues import PROJECTION
from tools.lm_errors import DataError, ToolError, exit_code
from tools.lm_text import HELD_OUT, divide, read_lines

# LM-BFF's manual templates and words (Gao et al. 2021, table 1) and PET's pattern 1 for AG News
# (Schick and Schütze 2021): before the text, after it, word of each label.
TASKS: dict[str, tuple[str, str, dict[str, str]]] = {
    "sst2": ("", "It was [MASK].", {"negative": "terrible", "positive": "great"}),
    "cr": ("", "It was [MASK].", {"negative": "terrible", "positive": "great"}),
    "mr": ("", "It was [MASK].", {"negative": "terrible", "positive": "great"}),
    "subj": ("", "This is [MASK].", {"subjective": "subjective", "objective": "objective"}),
    "trec": (
        "[MASK]:",
        "",
        {
            "description": "description",
            "entity": "entity",
            "abbreviation": "expression",
            "human": "human",
            "location": "location",
            "numeric": "number",
        },
    ),
    "ag_news": (
        "[MASK] News:",
        "",
        {"World": "world", "Sports": "sports", "Business": "business", "Sci/Tech": "tech"},
    ),
}
EXAMPLES = (
    "Paris is the capital of [MASK].",
    "She drank a cup of [MASK].",
    "The doctor works in a [MASK].",
    "This film is so boring. It was [MASK].",
    "I love this phone. It was [MASK].",
    "My parcel never arrived. I want my [MASK] back.",
)


def load_model(weights: Path | None) -> tuple[Any, Any]:
    """The shipped model, or the one of an adapter or of a training checkpoint; BuiltinModelError
    where the file is neither, or of another encoder."""
    if weights is None:
        return builtin.load_builtin()
    folder = builtin.sentence_encoder_path()
    builtin.check_package(folder)
    model, encoder = builtin.bare_model(folder)
    tensors = builtin.open_adapter(weights)
    learned = {
        name.removeprefix("weight/"): tensor
        for name, tensor in tensors.items()
        if name.startswith("weight/") and name != f"weight/{PROJECTION}"
    }
    complete = {**encoder, **learned} if learned else builtin.adapted(encoder, tensors)
    builtin.check_complete(model, complete, weights)
    return builtin.assemble(model, complete), builtin.load_tokenizer(folder)


def pad(rows: list[list[int]], padding: int) -> torch.Tensor:
    """Token ids [rows, longest]."""
    longest = max(len(row) for row in rows)
    return torch.tensor([row + [padding] * (longest - len(row)) for row in rows])


@torch.no_grad()
def hidden_at(model: Any, ids: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """The head's transformed states [places, width] at the chosen positions."""
    attention = (ids != model.config.pad_token_id).long()
    states = model.bert(input_ids=ids, attention_mask=attention).last_hidden_state
    return model.cls.predictions.transform(states[places])


@torch.no_grad()
def masked_accuracy(model: Any, tokenizer: Any, lines: list[str], seed: int) -> tuple[int, int]:
    """(hits, masked) of top-1 prediction over `lines`."""
    rows = tokenizer(lines, truncation=True, max_length=128)["input_ids"]
    rows.sort(key=len)
    special = torch.tensor(tokenizer.all_special_ids)
    generator = torch.Generator().manual_seed(seed)
    hits = total = 0
    for low in range(0, len(rows), 64):
        ids = pad(rows[low : low + 64], tokenizer.pad_token_id)
        masked = (torch.rand(ids.shape, generator=generator) < 0.15) & ~torch.isin(ids, special)
        shown = ids.masked_fill(masked, tokenizer.mask_token_id)
        logits = model.cls.predictions.decoder(hidden_at(model, shown, masked))
        hits += int((logits.argmax(dim=1) == ids[masked]).sum())
        total += int(masked.sum())
    return hits, total


@torch.no_grad()
def word_logits(model: Any, tokenizer: Any, task: str, texts: list[str]) -> torch.Tensor:
    """Logits [texts, labels] of the label words at the mask."""
    before, after, words = TASKS[task]
    answers = tokenizer.convert_tokens_to_ids(list(words.values()))
    if tokenizer.unk_token_id in answers:
        raise SystemExit(f"{task}: a label word of {words} is no single token")
    head, tail = (
        tokenizer(part, add_special_tokens=False)["input_ids"] for part in (before, after)
    )
    found = []
    for low in range(0, len(texts), 50):
        bodies = tokenizer(texts[low : low + 50], add_special_tokens=False, verbose=False)
        rows = [
            [tokenizer.cls_token_id, *head, *body[:200], *tail, tokenizer.sep_token_id]
            for body in bodies["input_ids"]
        ]
        # A mask token in a text is not the answer's place: there is one at a known distance.
        place = [1 + head.index(tokenizer.mask_token_id)] * len(rows) if head else None
        if place is None:
            place = [len(r) - 1 - len(tail) + tail.index(tokenizer.mask_token_id) for r in rows]
        ids = pad(rows, tokenizer.pad_token_id)
        answer = torch.zeros(ids.shape, dtype=torch.bool)
        answer[torch.arange(len(rows)), torch.tensor(place)] = True
        hidden = hidden_at(model, ids, answer)
        decoder = model.cls.predictions.decoder
        found.append(hidden @ decoder.weight[answers].T + decoder.bias[answers])
    return torch.cat(found)


def read_rows(path: Path, task: str, rows: int) -> list[dict[str, str]]:
    """The first rows of a data set's file; DataError where one is none of the task."""
    found = []
    try:
        with path.open(encoding="utf-8") as handle:
            for number, line in enumerate(itertools.islice(handle, rows), start=1):
                row = json.loads(line)
                if not isinstance(row.get("text"), str) or row.get("label") not in TASKS[task][2]:
                    raise DataError(
                        f"--data: {path} line {number}: wants a text and one of the labels "
                        f"{', '.join(TASKS[task][2])}"
                    )
                found.append(row)
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, AttributeError) as error:
        raise DataError(
            f"--data: {path} cannot be read ({error}); give a folder with {task}/train.jsonl and "
            f"{task}/test.jsonl, a JSON object with text and label on each line"
        ) from None
    if not found:
        raise DataError(f"--data: {path} has no rows")
    return found


def zero_shot(model: Any, tokenizer: Any, folder: Path, task: str, rows: int) -> dict[str, float]:
    """Accuracy of the label words alone, and with the prior taken off."""
    train, test = (
        read_rows(folder / task / f"{name}.jsonl", task, rows) for name in ("train", "test")
    )
    prior = word_logits(model, tokenizer, task, [row["text"] for row in train]).mean(dim=0)
    scores = word_logits(model, tokenizer, task, [row["text"] for row in test])
    labels = list(TASKS[task][2])
    gold = torch.tensor([labels.index(row["label"]) for row in test])
    return {
        "majority": float(gold.bincount(minlength=len(labels)).max() / len(gold)),
        "plain": float((scores.argmax(dim=1) == gold).float().mean()),
        "calibrated": float(((scores - prior).argmax(dim=1) == gold).float().mean()),
    }


def fill_in(model: Any, tokenizer: Any, text: str) -> list[str]:
    """The five likeliest words for the mask of `text`."""
    ids = tokenizer(text, return_tensors="pt")["input_ids"]
    hidden = hidden_at(model, ids, ids == tokenizer.mask_token_id)
    best = model.cls.predictions.decoder(hidden)[0].topk(5).indices.tolist()
    return list(tokenizer.convert_ids_to_tokens(best))


def measure(options: argparse.Namespace) -> int:
    """Measure, print one JSON document."""
    for name in ("lines", "rows", "threads"):
        if getattr(options, name) < 1:
            raise ToolError(f"--{name} {getattr(options, name)}: give a number from 1")
    torch.set_num_threads(options.threads)
    started = time.monotonic()
    model, tokenizer = load_model(options.weights)
    result: dict[str, Any] = {"load_seconds": round(time.monotonic() - started, 2)}
    hits = total = 0
    for path in options.text:
        held_out = divide(read_lines(path))[1][: options.lines]
        if not held_out:
            raise DataError(f"--text {path}: of fewer than 10 lines none is held out")
        found = masked_accuracy(model, tokenizer, held_out, options.seed)
        if not found[1]:
            raise DataError(f"--text {path}: none of the words drawn is an ordinary one")
        result[path.name.split(".")[0]] = round(found[0] / found[1], 4)
        hits, total = hits + found[0], total + found[1]
    if total:
        result["overall"], result["masked"] = round(hits / total, 4), total
    for task in TASKS if options.data else ():
        accuracies = zero_shot(model, tokenizer, options.data, task, options.rows)
        result[task] = {name: round(value, 4) for name, value in accuracies.items()}
    result["examples"] = {text: fill_in(model, tokenizer, text) for text in EXAMPLES}
    print(json.dumps(result, indent=1))
    return 0


def main() -> int:
    """Read the command line and measure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--text", action="append", default=[], type=Path)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--lines", type=int, default=HELD_OUT, help="held-out lines a file")
    parser.add_argument("--rows", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    return exit_code(lambda: measure(options))


if __name__ == "__main__":
    sys.exit(main())
