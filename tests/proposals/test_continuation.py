"""Templates that a causal model writes: valid, repeatable, whatever shares a batch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from autoprompt.data.task import Example, Task
from autoprompt.proposals import base, continuation
from autoprompt.proposals.continuation import LONGEST, continued, propose_templates
from autoprompt.text.template import check_template, ends_with_mask, parse, render
from autoprompt.text.verbalizer import Verbalizer

TASK = Task("pair", ("bad", "good"))
WORDS = Verbalizer((("bad", ("terrible",)), ("good", ("great",))))
ROWS = tuple(
    Example(f"a {word} story", f"the {other} film .", label)
    for word, other, label in (
        ("dull", "boring", "bad"),
        ("brave", "moving", "good"),
        ("bad", "dull", "bad"),
        ("good", "brave", "good"),
    )
)
TOGETHER = base.read_masks


def embed(texts: Any) -> np.ndarray:
    return np.eye(len(texts))


@pytest.fixture
def causal(tiny_checkpoint: Callable[..., Path]) -> Any:
    from autoprompt.models.load import load_model

    return load_model(str(tiny_checkpoint("gpt2")), device="cpu", precision="fp32")


def one_by_one(backbone: Any, rows: Any) -> Any:
    for place, row in enumerate(rows):
        for _, log_probs in TOGETHER(backbone, [row]):
            yield [place], log_probs


def test_they_end_with_the_mask_and_do_not_depend_on_the_batch_size(
    causal: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: dict[str, Any] = {"embed": embed, "count": 12, "seed": 1}
    found = propose_templates(causal, ROWS, TASK, WORDS, **given)
    assert len({one.text for one in found}) == len(found) == 12
    for one in found:
        template = parse(one.text)
        check_template(template, "pair")
        assert ends_with_mask(template)
        words = next(part.literal for part in template.parts if part.kind == "literal").split()
        assert 1 <= len(words) <= LONGEST
        assert {"great", "terrible"}.isdisjoint(words)
    for module in (base, continuation):
        monkeypatch.setattr(module, "read_masks", one_by_one)
    assert [p.text for p in propose_templates(causal, ROWS, TASK, WORDS, **given)] == [
        one.text for one in found
    ]


def test_a_word_counts_by_its_mean_log_probability_over_the_rows(causal: Any) -> None:
    import torch

    template = parse("{text} {text_b} it was {mask}")
    ids = [causal.tokenizer(f" {word}")["input_ids"][0] for word in ("terrible", "great") * 2]
    means, answered = continued(causal, [parse("{text} {text_b} {mask}"), template], ROWS, ids)
    rows = [causal.encode(render(template, row.text, row.text_b)) for row in ROWS]
    logits = causal.vocabulary_log_probs(causal.batch(rows))[:, 0]
    assert torch.allclose(means[1], logits.mean(0), atol=1e-5)
    own = logits[range(4), ids].mean()
    assert answered[1] == pytest.approx(float(own), abs=1e-5)
    assert not torch.allclose(means[0], means[1], atol=1e-2)
