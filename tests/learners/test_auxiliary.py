"""The masked-LM loss beside the labels': what is hidden, what it costs, what it keeps."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional

from autoprompt.data.task import Example, Task
from autoprompt.learners.auxiliary import corrupt, fills_gaps, joined, masked_loss
from autoprompt.learners.build import CandidateError, build
from autoprompt.learners.training import Settings
from autoprompt.learners.workshop import Workshop
from autoprompt.models.load import load_model
from autoprompt.models.masked import load_masked
from autoprompt.text.template import parse, render
from search_spaces.candidate import Candidate

TEMPLATE = parse("{text} it was {mask} .")
TEXTS = tuple(f"the {a} {n} was {b} !" for a in ("dull", "great") for n, b in (("film", "bad"),))


TASK = Task("single", ("negative", "positive"))
ROWS = [Example("a great film", label="positive"), Example("a dull film", label="negative")]


def encoded(workshop: Workshop, texts: tuple[str, ...] = TEXTS) -> list[Any]:
    return [workshop.backbone.encode(render(TEMPLATE, text)) for text in texts]


def test_reference_case_of_the_joined_loss() -> None:
    """Hard-prompt conformance case 11; PET's code calls 1 - weight alpha (trap 14)."""
    assert joined(torch.tensor(1.0), torch.tensor(3.0), 1e-4).item() == pytest.approx(1.0002)


def test_hides_15_percent_and_never_frame_or_mask(workshop: Workshop) -> None:
    """Section 7: specials, pads and the pattern's own mask are left alone."""
    tokenizer = workshop.backbone.tokenizer
    special = frozenset(tokenizer.all_special_ids)
    row = encoded(workshop)[0]
    words = [place for place, token in enumerate(row.ids) if token not in special]
    dice = torch.Generator().manual_seed(0)
    chosen = masked = kept = rounds = 0
    for _ in range(3000):
        hidden, told = corrupt(row, special, tokenizer.mask_token_id, len(tokenizer), dice)
        assert set(hidden.masks) <= set(words)
        assert told == tuple(row.ids[place] for place in hidden.masks)
        changed = {place for place in range(len(row.ids)) if hidden.ids[place] != row.ids[place]}
        assert changed <= set(hidden.masks)
        chosen += len(told)
        masked += sum(hidden.ids[place] == tokenizer.mask_token_id for place in hidden.masks)
        kept += len(told) - len(changed)
        rounds += len(words)
    assert chosen / rounds == pytest.approx(0.15, abs=0.01)
    assert masked / chosen == pytest.approx(0.8, abs=0.02)
    assert kept / chosen == pytest.approx(0.1, abs=0.02)


def test_is_the_models_own_loss(workshop: Workshop) -> None:
    """Against the model's own logits at every place of the same corrupted rows."""
    backbone: Any = load_masked(workshop.model, device="cpu", precision="fp32")
    rows = encoded(workshop)
    settings = Settings(1e-3, steps=3, batch_size=2)
    with torch.no_grad():
        found = masked_loss(backbone, rows, settings, seed=5)()
    tokenizer = backbone.tokenizer
    special = frozenset(tokenizer.all_special_ids)
    dice = torch.Generator().manual_seed(5)
    from autoprompt.learners.training import batches

    drawn = [
        corrupt(rows[n], special, tokenizer.mask_token_id, len(tokenizer), dice)
        for n in next(batches(len(rows), settings, 5))
    ]
    losses = []
    for row, told in drawn:
        with torch.no_grad():
            logits = backbone._model(input_ids=torch.tensor([row.ids])).logits[0]
        losses += [
            functional.cross_entropy(logits[place], torch.tensor(token))
            for place, token in zip(row.masks, told, strict=True)
        ]
    torch.testing.assert_close(found, torch.stack(losses).mean(), atol=1e-5, rtol=1e-5)


def test_a_tuned_model_forgets_less_with_it(workshop: Workshop) -> None:
    """Tuning for labels alone raises the masked-LM loss of texts; beside it, that falls."""
    from autoprompt.learners.auxiliary import Auxiliary
    from autoprompt.learners.prompted import Prompted
    from autoprompt.text.verbalizer import Verbalizer, check_words

    verbalizer = Verbalizer((("negative", ("bad",)), ("positive", ("good",))))
    words = check_words(verbalizer, workshop.backbone.tokenizer)
    texts = tuple(Example(text) for text in TEXTS)
    after = {}
    for weight in (0.0, 0.5):
        learner = Prompted(
            TASK,
            workshop,
            TEMPLATE,
            words,
            training=Settings(3e-3, steps=40, batch_size=2),
            tuned="all",
            auxiliary=Auxiliary(weight, lambda _rows: texts) if weight else None,
        )
        learner.fit(ROWS, seed=0)
        assert learner.scores(ROWS).argmax(axis=1).tolist() == [1, 0]
        again = masked_loss(
            workshop.backbone, encoded(workshop), Settings(1.0, steps=30, batch_size=2), seed=9
        )
        with torch.no_grad():
            after[weight] = torch.stack([again() for _ in range(30)]).mean().item()
    assert after[0.5] < after[0.0] - 0.5


@pytest.mark.parametrize(
    ("family", "expected"), [("bert", True), ("gpt2", False), ("t5", False), ("bart", False)]
)
def test_only_masked_models_fill_gaps(
    family: str, expected: bool, tiny_checkpoint: Callable[..., Path]
) -> None:
    folder = tiny_checkpoint(family)
    assert fills_gaps(load_model(str(folder), device="cpu", precision="fp32")) is expected


def test_refused_for_a_causal_model(tiny_checkpoint: Callable[..., Path]) -> None:
    task = Task("single", ("negative", "positive"))
    workshop = Workshop(task, str(tiny_checkpoint("gpt2")), "cpu", "fp32")
    values = {
        "method": "pet",
        "patterns": '["{text} it was {mask}"]',
        "words": '{"negative": ["bad"], "positive": ["good"]}',
        "learning_rate": 1e-3,
        "steps": 2,
        "batch_size": 2,
        "distillation_steps": 2,
        "auxiliary_weight": 1e-4,
    }
    with pytest.raises(CandidateError, match=r"auxiliary_weight.*no masked language model; set 0"):
        build(Candidate(values), task, workshop)


def test_a_learned_prompt_is_in_the_rows_whose_words_are_hidden(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else its places held the padding's embedding, which was trained there."""
    real, read = workshop.backbone.answer_states, []

    def states(inputs: Any) -> torch.Tensor:
        read.append(inputs.embeds is not None)
        return real(inputs)

    monkeypatch.setattr(workshop.backbone, "answer_states", states)
    workshop.unlabeled = tuple(Example(text) for text in TEXTS)
    candidate = Candidate(
        {
            "method": "prompt_tuning",
            "template": "{text} it was {mask} .",
            "words": '{"negative":["bad"],"positive":["good"]}',
            "trainable": "all",
            "auxiliary_weight": 0.5,
            **{"learning_rate": 1e-3, "prompt_learning_rate": 1e-2, "weight_decay": 0.0},
            **{"steps": 2, "prompt_steps": 2, "batch_size": 2, "prompt_length": 3},
            **{"prompt_position": "front", "prompt_init": "vocabulary"},
        }
    )
    learner = build(candidate, TASK, workshop)
    learner.fit(ROWS, seed=0)
    assert len(read) >= 4
    assert all(read)
