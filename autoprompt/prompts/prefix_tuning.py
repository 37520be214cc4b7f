"""Prefix-tuning: learned keys and values before those of every layer (Li and Liang 2021).

`mlp` is the paper's reparametrisation: one network makes the keys and values of all layers from P
small embeddings, and is dropped after training (section 4.3). `direct` trains them as they are.
"""

from __future__ import annotations

from collections.abc import Mapping

from autoprompt.prompts.key_values import PrefixMethod, read_prefix


def read(values: Mapping[str, object]) -> PrefixMethod:
    """From a candidate's prompt_length, reparametrisation and, with `mlp`, prompt_width;
    `PromptError` if unusable."""
    return read_prefix(values)
