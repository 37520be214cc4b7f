"""P-tuning v2 with a classification head: the model frozen, a prefix and a linear layer trained."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModel, AutoTokenizer, DynamicCache

from autoprompt.data.task import Example, Task
from autoprompt.learners import bundle
from autoprompt.learners.adapter import write_adapter
from autoprompt.learners.build import CandidateError, build
from autoprompt.learners.bundle import BundleError, load_bundle, save_bundle
from autoprompt.learners.probe import unfit
from autoprompt.learners.workshop import Workshop
from autoprompt.text.truncation import TruncationError
from search_spaces.candidate import Candidate

FAMILIES = ("bert", "roberta", "albert", "modernbert", "gpt2", "llama", "t5", "bart")
TASK = Task("single", ("negative", "positive"))
ROWS = [Example(t, label="positive") for t in ("a great story", "good film !", "very moving")]
ROWS += [
    Example(t, label="negative")
    for t in ("a terrible story", "bad film ! it was very , very dull", "dull")
]
VALUES: dict[str, Any] = {
    "method": "p_tuning_v2",
    "readout": "head",
    "trainable": "prompt",
    "reparametrisation": "direct",
    "prompt_length": 3,
    "prompt_learning_rate": 3e-2,
    "prompt_steps": 8,
    "batch_size": 4,
}
HEAD = Candidate(VALUES)


@pytest.fixture(params=FAMILIES)
def workshop(request: pytest.FixtureRequest, tiny_checkpoint: Callable[..., Path]) -> Workshop:
    folder = tiny_checkpoint(request.param, initializer_range=0.1)
    return Workshop(TASK, str(folder), "cpu", "fp32", ROWS)


@pytest.fixture
def bert(tiny_checkpoint: Callable[..., Path]) -> Workshop:
    folder = tiny_checkpoint("bert", initializer_range=0.1)
    return Workshop(TASK, str(folder), "cpu", "fp32", ROWS)


def fitted(candidate: Candidate, workshop: Workshop, seed: int = 0) -> Any:
    learner = build(candidate, workshop.task, workshop)
    learner.fit(ROWS, seed=seed)
    return learner


def weights(workshop: Workshop) -> str:
    """A digest of all of the model's parameters and buffers."""
    digest = hashlib.sha256()
    for _, tensor in sorted(workshop.backbone._model.state_dict().items()):  # type: ignore[attr-defined]
        digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()


def test_it_learns_its_rows_with_the_model_as_it_was(workshop: Workshop) -> None:
    before = weights(workshop)
    gold = TASK.label_ids(ROWS)
    loss = []
    for steps in (1, 150):
        learner = fitted(HEAD.replace(prompt_steps=steps), workshop)
        loss.append(-learner.scores(ROWS)[numpy.arange(len(gold)), gold].mean())
    assert loss[1] < 0.7 * loss[0]
    assert weights(workshop) == before
    model = workshop.backbone._model  # type: ignore[attr-defined]
    assert all(p.grad is None and not p.requires_grad for p in model.parameters())


def test_both_the_prefix_and_the_head_are_trained(workshop: Workshop, tmp_path: Path) -> None:
    found = []
    for steps in (1, 9):
        fitted(HEAD.replace(prompt_steps=steps, prompt_learning_rate=1e-2), workshop).save(tmp_path)
        prefix = load_file(tmp_path / "soft_prompt.safetensors")["key_values"]
        found.append({"prefix": prefix, **load_file(tmp_path / "weights.safetensors")})
    assert set(found[0]) == {"prefix", "head.out.weight", "head.out.bias"}
    for name, tensor in found[0].items():
        assert float((found[1][name] - tensor).abs().max()) > 1e-3, name


def test_answers_do_not_depend_on_padding_or_the_order_of_rows(workshop: Workshop) -> None:
    learner = fitted(HEAD, workshop)
    together = learner.scores(ROWS)
    alone = numpy.concatenate([learner.scores([row]) for row in ROWS])
    numpy.testing.assert_allclose(alone, together, atol=1e-5)
    numpy.testing.assert_allclose(learner.scores(ROWS[::-1])[::-1], together, atol=1e-5)


def test_what_is_saved_answers_the_same_beside_another_model(
    workshop: Workshop, tmp_path: Path
) -> None:
    learner = fitted(HEAD, workshop)
    expected = learner.scores(ROWS)
    saved = learner.save(tmp_path)
    again = build(HEAD, TASK, Workshop(TASK, workshop.model, "cpu", "fp32"))
    again.load(tmp_path, saved)
    numpy.testing.assert_allclose(again.scores(ROWS), expected, atol=1e-6)
    fine_tuned = {"method": "fine_tuning", "learning_rate": 1e-2, "steps": 2, "batch_size": 4}
    fitted(Candidate(fine_tuned), workshop)  # tunes the resident weights
    numpy.testing.assert_array_equal(learner.scores(ROWS), expected)


def test_a_fit_repeats_exactly_and_another_seed_gives_another(bert: Workshop) -> None:
    first = fitted(HEAD, bert).scores(ROWS)
    numpy.testing.assert_array_equal(fitted(HEAD, bert).scores(ROWS), first)
    assert numpy.abs(fitted(HEAD, bert, seed=1).scores(ROWS) - first).max() > 1e-4


def test_it_is_the_first_state_behind_past_keys_and_values(bert: Workshop, tmp_path: Path) -> None:
    """By hand with the plain model of transformers, one text after the other."""
    learner = fitted(HEAD.replace(prompt_learning_rate=1e-1, prompt_steps=40), bert)
    learner.save(tmp_path)
    prefix = load_file(tmp_path / "soft_prompt.safetensors")["key_values"]  # [L, 2, P, H, D]
    head = load_file(tmp_path / "weights.safetensors")
    model = AutoModel.from_pretrained(bert.model).eval()
    tokenizer = AutoTokenizer.from_pretrained(bert.model)
    length = prefix.shape[2]

    def by_hand(ids: torch.Tensor, prefix: torch.Tensor) -> numpy.ndarray:
        cache = DynamicCache([tuple(p.transpose(0, 1).unsqueeze(0) for p in kv) for kv in prefix])
        with torch.no_grad():
            first = model(
                input_ids=ids,
                attention_mask=torch.ones(1, length + ids.shape[1], dtype=torch.long),
                position_ids=torch.arange(ids.shape[1]).unsqueeze(0) + length,
                past_key_values=cache,
            ).last_hidden_state[:, 0]
        logits = first @ head["head.out.weight"].T + head["head.out.bias"]
        return logits.log_softmax(-1).numpy()

    for row in ROWS:
        ids = tokenizer(row.text, return_tensors="pt")["input_ids"]
        ours = learner.scores([row])
        numpy.testing.assert_allclose(ours, by_hand(ids, prefix), atol=1e-5)
        # what the prefix says is no rounding error
        assert numpy.abs(ours - by_hand(ids, torch.zeros_like(prefix))).max() > 1e-2


def test_pairs_are_read_as_the_tokenizer_frames_them(tiny_checkpoint: Callable[..., Path]) -> None:
    task = Task("pair", TASK.labels)
    workshop = Workshop(task, str(tiny_checkpoint("bert")), "cpu", "fp32")
    learner = build(HEAD, task, workshop)
    learner.fit([Example(row.text, "a film", row.label) for row in ROWS], seed=0)
    scores = learner.scores([Example("a film", "very dull"), Example("a film", "very moving")])
    assert numpy.abs(scores[0] - scores[1]).max() > 1e-6


def test_a_text_longer_than_the_model_reads_is_cut_behind_the_prefix(bert: Workshop) -> None:
    learner = fitted(HEAD, bert)
    long = Example("very " * 500)
    assert numpy.isfinite(learner.scores([long])).all()
    kept = learner._encode([long])[0]
    assert len(kept.ids) == bert.backbone.max_length - VALUES["prompt_length"]
    with pytest.raises(TruncationError, match="prompt_length: 500 leaves no room for a text"):
        fitted(HEAD.replace(prompt_length=500), bert)


def test_a_loaded_bundle_answers_the_same_and_peft_is_refused(
    bert: Workshop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bundle, "_prove", lambda *_: None)  # a whole search's test has it
    learner = fitted(HEAD, bert)
    made = tmp_path / "made"
    save_bundle(learner, HEAD, TASK, made, metrics={}, provenance={}, workshop=bert)
    assert bundle.read_prompt(made)["settings"]["readout"] == "head"
    loaded = load_bundle(made, "cpu").scores([row.text for row in ROWS])
    numpy.testing.assert_allclose(loaded, learner.scores(ROWS), atol=1e-6)
    with pytest.raises(BundleError, match="--peft: readout 'head'"):
        write_adapter(made)
    assert not (made / "peft").exists()


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"method": "prompt_tuning", "prompt_position": "front", "prompt_init": "random"},
         r"readout: 'head' needs a prefix .*'prompt_tuning'.*p_tuning_v2"),
        ({"method": "hard"}, "readout: 'head' needs a prefix .*'hard'"),
        ({"method": "fine_tuning"}, "readout: 'head' needs a prefix .*'fine_tuning'"),
        ({"readout": "pooler"}, "readout: 'pooler' is unknown; choose one of verbalizer, head"),
        ({"trainable": "all", "learning_rate": 1e-4}, "trainable: 'all' with readout 'head'"),
        ({"template": "{text} {mask}"}, "template: .* reads a plain text"),
        ({"calibration": "prior"}, "calibration: 'prior'"),
    ],
)  # fmt: skip
def test_what_a_head_cannot_have_is_refused(
    changes: dict[str, Any], named: str, bert: Workshop
) -> None:
    with pytest.raises(CandidateError, match=named):
        build(HEAD.replace(**changes), TASK, bert)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kind", ["single", "pair"])
def test_every_family_can_take_it(
    kind: str, family: str, tiny_checkpoint: Callable[..., Path]
) -> None:
    backbone = Workshop(TASK, str(tiny_checkpoint(family)), "cpu", "fp32").backbone
    assert unfit(HEAD, kind, backbone) == ""


def test_an_attention_that_takes_no_prefix_is_found_out(
    tiny_checkpoint: Callable[..., Path],
) -> None:
    folder = tiny_checkpoint("deberta", talking_head=True)
    backbone = Workshop(TASK, str(folder), "cpu", "fp32").backbone
    assert "takes no prefix" in unfit(HEAD, "single", backbone)
