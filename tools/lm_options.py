"""The training's command line: what it takes, what it refuses, and what makes one run the same as
another. Reads no text and loads no model.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import Any, NamedTuple

from autoprompt.models import builtin
from autoprompt.models.device import DEVICES, PRECISIONS, resolve_device, resolve_precision
from tools.lm_errors import ToolError

TOKENS = ".tokens"  # ending of a tokenised text
OPTIMISERS = ("muon", "adamw")
CUE_TOKENS = 16  # more than any cue of lm_cues adds to a line

# option: least, most, whether they themselves are allowed
BOUNDS: dict[str, tuple[float, float, bool, bool]] = {
    "tokens": (1, math.inf, True, False),
    "minutes": (0, math.inf, False, True),
    "slice": (0, math.inf, False, True),
    "save": (0, math.inf, True, True),
    "means": (0, math.inf, True, True),
    "cues": (0, 1, True, True),
    "cue_mask_rate": (0, 1, True, False),
    "distil": (0, math.inf, True, False),
    "batch_tokens": (1, math.inf, True, False),
    "longest": (3, builtin.LONGEST_INPUT, True, True),
    "mask_rate": (0, 1, False, False),
    "rate": (0, math.inf, False, False),
    "head_rate": (0, math.inf, False, False),
    "weight_decay": (0, math.inf, True, False),
    "warm_up": (0, 1, True, False),
    "decay": (0, 1, True, True),
    "threads": (0, math.inf, True, False),
    "seed": (0, 2**40, True, True),
}
# Which lines are read in which order, and how they teach. How long a run may last, how its rate
# falls in the end and what it computes on may change from slice to slice.
OF_THE_RUN = (
    "tokens",
    "seed",
    "batch_tokens",
    "longest",
    "mask_rate",
    "whole_words",
    "cues",
    "cue_mask_rate",
    "distil",
    "optimiser",
    "rate",
    "head_rate",
    "weight_decay",
    "warm_up",
)


class Text(NamedTuple):
    """A file to learn from and its weight in the mix."""

    path: Path
    weight: float | None


def read_text_option(words: str) -> Text:
    """FILE or FILE=WEIGHT; what follows the last `=` is a weight only if it is a number."""
    path, _, last = words.rpartition("=")
    try:
        weight = float(last) if path else None
    except ValueError:
        weight = None
    if weight is None:
        path = words
    if not Path(path).is_file():
        raise ToolError(f"--text {words}: there is no file {path}; give FILE or FILE=WEIGHT")
    if weight is not None and not 0 < weight < math.inf:
        raise ToolError(f"--text {words}: the weight must be above 0; leave the file out instead")
    return Text(Path(path), weight)


def token_name(path: Path) -> str:
    """What a text's tokens are called."""
    return path.name.removesuffix(".gz").removesuffix(".txt") + TOKENS


def check(options: argparse.Namespace) -> None:
    """Refuse what cannot be, resolve the device and the precision; ToolError, DeviceError."""
    for name, (least, most, with_least, with_most) in BOUNDS.items():
        value, option = getattr(options, name), f"--{name.replace('_', '-')}"
        above = value >= least if with_least else value > least
        below = value <= most if with_most else value < most
        if not (above and below):
            wanted = f"{'from' if with_least else 'above'} {least:g}"
            if most < math.inf:
                wanted += f" {'to' if with_most else 'to below'} {most:g}"
            raise ToolError(f"{option} {value}: give a number {wanted}")
    if options.cues and options.longest + CUE_TOKENS > builtin.LONGEST_INPUT:
        raise ToolError(
            f"--longest {options.longest}: with --cues at most {builtin.LONGEST_INPUT - CUE_TOKENS}"
        )
    options.text = [read_text_option(words) for words in options.text]
    given = [text.weight is not None for text in options.text]
    if any(given) and not all(given):
        lacking = options.text[given.index(False)].path
        raise ToolError(f"--text {lacking}: the others have weights; give it one, {lacking}=0.1")
    if options.tokenise is not None:
        check_tokenise(options)
        return
    if options.out is None or options.work is None:
        raise ToolError("--out and --work: name both, or --tokenise")
    if options.out.resolve() == builtin.ADAPTER_FILE.resolve():
        raise ToolError(
            f"--out {options.out}: this is the installed model, which would not load until the "
            "training has ended; name another file and copy it when it is good"
        )
    options.device = resolve_device(options.device)
    options.precision = resolve_precision(options.precision, options.device)


def check_tokenise(options: argparse.Namespace) -> None:
    """Refuse texts whose tokens would overwrite each other's."""
    names: dict[str, Path] = {}
    for path, _ in options.text:
        if path.suffix == TOKENS:
            raise ToolError(f"--text {path}: is tokenised already")
        other = names.setdefault(token_name(path), path)
        if other != path:
            raise ToolError(f"--text {path}: would write the same file as {other}; rename one")


def run_settings(options: argparse.Namespace) -> dict[str, Any]:
    """What makes the run: a checkpoint is resumed only by the same."""
    settings: dict[str, Any] = {name: getattr(options, name) for name in OF_THE_RUN}
    settings["text"] = [
        [text.path.name, text.weight, builtin.file_digest(text.path)] for text in options.text
    ]
    settings["start"] = builtin.file_digest(options.start) if options.start else None
    return settings


def check_same(stored: dict[str, Any], wanted: dict[str, Any], work: Path) -> None:
    """ToolError, naming the first difference, unless a checkpoint is of this run."""
    for name, value in wanted.items():
        if stored.get(name) != value:
            option = f"--{name.replace('_', '-')}"
            raise ToolError(
                f"--work {work}: its checkpoint was made with {option} {stored.get(name)}, this is "
                f"{value}; give what it was made with, or a new folder"
            )


def parse(description: str, arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line (or `arguments`), unchecked."""
    parser = argparse.ArgumentParser(description=description)
    add = parser.add_argument
    add("--text", action="append", required=True, help="FILE or FILE=WEIGHT")
    add("--out", type=Path, help="adapter file to write")
    add("--work", type=Path, help="folder of the checkpoint")
    add("--tokenise", type=Path, help="only tokenise the texts into this folder")
    add("--tokens", type=int, default=12_000_000)
    add("--minutes", type=float, default=math.inf)
    add("--slice", type=float, default=math.inf, help="minutes until a stop")
    add("--save", type=float, default=5.0, help="minutes between checkpoints")
    add("--means", type=float, default=math.inf, help="minutes of each mean that is kept")
    add("--start", type=Path, help="adapter to begin with")
    add("--cues", type=float, default=0.0, help="share of batches with a cue")
    add("--cue-mask-rate", type=float, default=0.1)
    add("--distil", type=float, default=1.0, help="weight of the embedding's term")
    add("--batch-tokens", type=int, default=6_144)
    add("--longest", type=int, default=128, help="tokens of a line at most")
    add("--mask-rate", type=float, default=0.18)
    add("--whole-words", action="store_true", help="mask all pieces of a word")
    add("--optimiser", choices=OPTIMISERS, default="muon", help="of the layers' matrices")
    add("--rate", type=float, default=4e-4, help="peak learning rate")
    add("--head-rate", type=float, default=2.5, help="times --rate")
    add("--weight-decay", type=float, default=0.01)
    add("--warm-up", type=float, default=0.05, help="share of the run")
    add("--decay", type=float, default=1.0, help="last share, in which the rate falls")
    add("--threads", type=int, default=0)
    add("--device", default="auto", help=f"one of {', '.join(DEVICES)}, or cuda:N")
    add("--precision", choices=PRECISIONS, default="auto")
    add("--compile", action="store_true", help="torch.compile the layers")
    add("--seed", type=int, default=0)
    return parser.parse_args(arguments)
