"""Exported adapters: PEFT answers with them as we do; what PEFT has no form for is refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from autoprompt.data.task import Example, Task
from autoprompt.learners import bundle
from autoprompt.learners.adapter import write_adapter
from autoprompt.learners.build import build
from autoprompt.learners.bundle import BundleError, save_bundle
from autoprompt.learners.workshop import Workshop
from autoprompt.text.template import parse, render
from autoprompt.text.verbalizer import Verbalizer
from search_spaces.candidate import Candidate

peft = pytest.importorskip("peft")

TASK = Task("single", ("bad", "good"))
ROWS = [Example(t, label="good") for t in ("a great story", "good film !", "very moving")]
ROWS += [Example(t, label="bad") for t in ("a terrible story", "bad film !", "very dull")]
SOURCE = "{text} it was {mask} ."
BASE = {
    "template": SOURCE,
    "words": Verbalizer((("bad", ("terrible",)), ("good", ("great",)))).to_json(),
    "trainable": "prompt",
    "calibration": "none",
    "prompt_length": 3,
    "prompt_learning_rate": 3e-2,
    "network_learning_rate": 3e-2,
    "prompt_steps": 5,
    "batch_size": 4,
}
METHODS: dict[str, dict[str, Any]] = {
    "prompt_tuning": {"prompt_position": "front", "prompt_init": "random"},
    "p_tuning": {"prompt_position": "front", "reparametrisation": "lstm"},
    "prefix_tuning": {"reparametrisation": "mlp", "prompt_width": 8},
    "p_tuning_v2": {"reparametrisation": "direct"},
}
MODELS = {"masked": "MaskedLM", "causal": "CausalLM", "seq2seq": "Seq2SeqLM"}
VECTORS = (
    "bert",
    "roberta",
    "albert",
    "distilbert",
    "electra",
    "deberta-v2",
    "modernbert",
    "gpt2",
    "llama",
    "t5",
)
PREFIXES = ("bert", "roberta", "electra", "gpt2", "llama")


@pytest.fixture(autouse=True)
def _unproved(monkeypatch: pytest.MonkeyPatch) -> None:
    """The clean process has a test of its own."""
    monkeypatch.setattr(bundle, "_prove", lambda *_: None)


def exported(method: str, folder: Path, made: Path, **changes: Any) -> tuple[Any, Workshop]:
    workshop = Workshop(TASK, str(folder), "cpu", "fp32", ROWS)
    candidate = Candidate({"method": method} | BASE | METHODS.get(method, {}) | changes)
    learner = build(candidate, TASK, workshop)
    learner.fit(ROWS, seed=0)
    save_bundle(learner, candidate, TASK, made, metrics={}, provenance={}, workshop=workshop)
    return learner, workshop


def peft_logits(adapter: Path, folder: Path, row: Any, kind: str, length: int) -> torch.Tensor:
    """Logits of PEFT's model where the row is read, prompt before everything."""
    import transformers

    reader = getattr(transformers, f"AutoModelFor{MODELS[kind]}")
    model = peft.PeftModel.from_pretrained(reader.from_pretrained(folder), adapter).eval()
    more = {"decoder_input_ids": torch.tensor([row.decoder])} if row.decoder else {}
    with torch.no_grad():
        found = model(
            input_ids=torch.tensor([row.ids]),
            attention_mask=torch.ones(1, len(row.ids), dtype=torch.long),
            **more,
        ).logits[0]
    extra = 0 if row.decoder else len(found) - len(row.ids)
    assert extra in (0, length)
    return found[row.masks[0] + extra]


@pytest.mark.parametrize(
    ("method", "family"),
    [(method, family) for method in ("prompt_tuning", "p_tuning") for family in VECTORS]
    + [(method, family) for method in ("prefix_tuning", "p_tuning_v2") for family in PREFIXES],
)
@pytest.mark.filterwarnings("ignore")
def test_peft_answers_as_we_do(
    method: str, family: str, tiny_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    folder = tiny_checkpoint(family)
    learner, workshop = exported(method, folder, tmp_path / "made")
    backbone = workshop.backbone
    row = backbone.encode(render(parse(SOURCE), "a dull film !"))
    placed = learner._placed
    slots = backbone.encode(
        render(placed.template, "a dull film !"), 1, placed.lead, placed.reserve
    )
    inputs = backbone.batch([slots])
    if inputs.token_type_ids is not None:  # PEFT drops them
        inputs = replace(inputs, token_type_ids=torch.zeros_like(inputs.token_type_ids))
    with torch.no_grad():
        state = backbone.answer_states(learner._prompt.insert(inputs, backbone))
        ours = backbone.vocabulary_logits(state)[0, 0]
    kind = {"t5": "seq2seq", "gpt2": "causal", "llama": "causal"}.get(family, "masked")
    adapter = write_adapter(tmp_path / "made")
    theirs = peft_logits(adapter, folder, row, kind, 3)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("method", "changes", "named"),
    [
        ("prompt_tuning", {"prompt_position": "split"}, "prompt_position 'split'"),
        ("prompt_tuning", {"template": "{soft:2} {text} {mask}"}, r"\{soft:N\} among its words"),
        ("prompt_tuning", {"trainable": "all", "learning_rate": 1e-3}, "trainable 'all'"),
        (
            "dynamic",
            {"controller": "adap_len", "prompt_position": "front", "prompt_init": "random"},
            "no form for method 'dynamic'",
        ),
        (
            "deep_hidden",
            {"prompt_position": "front", "prompt_init": "random"},
            "no form for method 'deep_hidden'",
        ),
    ],
)
def test_what_peft_has_no_form_for_is_refused(
    method: str,
    changes: dict[str, Any],
    named: str,
    tiny_checkpoint: Callable[..., Path],
    tmp_path: Path,
) -> None:
    exported(method, tiny_checkpoint("bert"), tmp_path / "made", **changes)
    with pytest.raises(BundleError, match=named):
        write_adapter(tmp_path / "made")
    assert not (tmp_path / "made" / "peft").exists()


@pytest.mark.parametrize("family", ["albert", "modernbert", "t5"])
def test_prefixes_of_models_that_peft_cannot_give_one_are_refused(
    family: str, tiny_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    exported("p_tuning_v2", tiny_checkpoint(family), tmp_path / "made")
    with pytest.raises(BundleError, match="cannot put a prefix"):
        write_adapter(tmp_path / "made")
