"""Average adapters of the built-in model, weight by weight. Not needed to use autoprompt.

    python -m tools.average_builtin_lm FIRST.safetensors SECOND.safetensors --out MEAN.safetensors

Trainings that went on from one another, each until its rate had fallen to zero, end on different
sides of one valley: their mean lies deeper than either (Wortsman et al. 2022, Model soups). No
training, no text; tools/evaluate_builtin_lm.py measures the result.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import torch

from autoprompt.models import builtin
from tools.lm_errors import ToolError, exit_code
from tools.lm_files import write_safely
from tools.lm_trainer import quantise


def mean(
    adapters: list[dict[str, torch.Tensor]], encoder: dict[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """The weights, fp32, that lie in the middle of those which the adapters make of the encoder;
    those that no adapter touches are left out."""
    whole = [builtin.adapted(encoder, adapter) for adapter in adapters]
    names = {key.split("/", 1)[1] for adapter in adapters for key in adapter}
    return {
        name: torch.stack([weights[name] for weights in whole]).mean(dim=0)
        for name in sorted(names)
    }


def average(options: argparse.Namespace) -> int:
    """Average, write, print the digest."""
    folder = builtin.sentence_encoder_path()
    builtin.check_package(folder)
    encoder = builtin.bare_model(folder)[1]
    adapters = [builtin.open_adapter(path) for path in options.adapters]
    for path, adapter in zip(options.adapters, adapters, strict=True):
        other = adapter.keys() ^ adapters[0].keys()
        if other:
            raise ToolError(
                f"{path}: has or lacks {sorted(other)[0]}, other than {options.adapters[0]}; "
                "average adapters of one training alone"
            )
    of = json.dumps([builtin.file_digest(path) for path in options.adapters])
    metadata = {**builtin.ADAPTER_FIELDS, "mean_of": of}
    options.out.parent.mkdir(parents=True, exist_ok=True)
    write_safely(quantise(mean(adapters, encoder), encoder), options.out, metadata)
    print(f'autoprompt/models/builtin.py: ADAPTER_DIGEST = "{builtin.file_digest(options.out)}"')
    return 0


def main() -> int:
    """Read the command line and average."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("adapters", nargs="+", type=Path, help="adapter files")
    parser.add_argument("--out", type=Path, required=True, help="adapter file to write")
    options = parser.parse_args()
    return exit_code(lambda: average(options))


if __name__ == "__main__":
    sys.exit(main())
