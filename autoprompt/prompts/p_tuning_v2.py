"""P-tuning v2: deep prompts, a prefix of keys and values in every layer (Liu et al. 2022).

The same function as prefix-tuning, trained as it is (`direct`) where that goes through a network.
The answer is read through label words, or by the paper's classification head (`readout = "head"`:
a linear layer on the first token's state of the text alone, learners/head.py).
"""

from __future__ import annotations

from collections.abc import Mapping

from autoprompt.prompts.key_values import PrefixMethod, read_prefix


def read(values: Mapping[str, object]) -> PrefixMethod:
    """From a candidate's prompt_length, reparametrisation and, with `mlp`, prompt_width;
    `PromptError` if unusable."""
    return read_prefix(values)
