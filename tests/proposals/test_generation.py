"""Templates by generation: equal to the plain algorithm, valid, of both placements, repeatable."""

from __future__ import annotations

import dataclasses
import importlib.util
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import toy_writer

from autoprompt.data.task import Example, Task
from autoprompt.models.load import load_model
from autoprompt.proposals import beam
from autoprompt.proposals.generation import (
    PLACEMENTS,
    can_generate,
    generate,
    grammar,
    propose_templates,
    shown_row,
    to_template,
)
from autoprompt.text.imports import read_template
from autoprompt.text.template import check_template, parse
from autoprompt.text.verbalizer import Verbalizer

AFTER, BEFORE, BETWEEN = PLACEMENTS
TASK = Task("single", ("bad", "good"))
WORDS = Verbalizer((("bad", ("terrible",)), ("good", ("great",))))
BEAM = 4


def _plain() -> Any:
    """The plain algorithm, which the benchmark measures ours against."""
    path = Path(__file__).parents[2] / "benchmarks" / "plain_templates.py"
    spec = importlib.util.spec_from_file_location("plain_templates", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    import sys

    sys.modules[spec.name] = module  # where its dataclass looks for itself
    spec.loader.exec_module(module)
    return module


plain_templates = _plain()


@pytest.fixture(scope="module")
def t5(writer: Callable[[str], Path]) -> Any:
    return load_model(str(writer("t5")), device="cpu", precision="fp32")


@pytest.fixture(scope="module")
def mt5(writer: Callable[[str], Path]) -> Any:
    return load_model(str(writer("mt5")), device="cpu", precision="fp32")


@pytest.fixture(scope="module")
def examples() -> tuple[Example, ...]:
    """Texts of 1 to 12 words, so that batches are padded."""
    rng = random.Random(0)
    texts = (" ".join(rng.choices(toy_writer.WORDS, k=rng.randint(1, 12))) for _ in range(6))
    return tuple(Example(text, label=label) for text, label in zip(texts, ("bad", "good") * 3))


@pytest.fixture(scope="module")
def pairs(examples: tuple[Example, ...]) -> tuple[Example, ...]:
    others = reversed([example.text for example in examples])
    return tuple(Example(one.text, b, one.label) for one, b in zip(examples, others))


def plainly(
    model: Any, examples: tuple[Example, ...], placement: Any, rule: str
) -> list[tuple[str, float]]:
    """(template, score) of the plain algorithm."""
    tokenizer = model.tokenizer
    signs = grammar(tokenizer, rule)  # type: ignore[arg-type]

    def key(tokens: Any) -> str | None:
        template = to_template(tokenizer, tokens, placement)
        return None if template is None else str(template)

    search = plain_templates.Search(
        model._model,
        [shown_row(tokenizer, placement, example, WORDS).ids for example in examples],
        model._model.config.decoder_start_token_id,
        signs.sentinels,
        signs.end,
        signs.stop,
        signs.refused,
        len(tokenizer),
    )
    return [(str(key(tokens)), score) for tokens, score in search.run(BEAM, rule, key)]


def ours(
    model: Any, examples: tuple[Example, ...], placement: Any, rule: Any = "sane"
) -> list[tuple[str, float]]:
    found = generate(model, examples, placement, WORDS, wanted=10_000, beam=BEAM, rule=rule)
    return [(str(one.template), one.log_prob) for one in found]


def same(found: list[tuple[str, float]], expected: list[tuple[str, float]]) -> None:
    assert len(found) > 3
    assert [text for text, _ in found] == [text for text, _ in expected]
    scores = [score for _, score in found]
    assert scores == pytest.approx([score for _, score in expected], abs=1e-5)


@pytest.mark.parametrize(
    ("family", "placement", "rule"),
    [("t5", AFTER, "sane"), ("t5", BETWEEN, "reference"), ("mt5", BEFORE, "sane")],
    ids=["t5 after", "t5 between, reference", "mt5 before"],
)
def test_the_kept_decoder_equals_the_plain_algorithm(
    family: str,
    placement: Any,
    rule: str,
    request: Any,
    examples: Any,
    pairs: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for module in (beam, plain_templates):  # the plain one takes its time
        monkeypatch.setattr(module, "STEPS", 9)
    model = request.getfixturevalue(family)
    rows = pairs if placement.kind == "pair" else examples
    same(ours(model, rows, placement, rule), plainly(model, rows, placement, rule))


def test_batches_and_padding_change_nothing(
    mt5: Any, examples: tuple[Example, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = ours(mt5, examples, AFTER)
    for rows_at_once in (1, 3):  # one alone is not padded
        monkeypatch.setattr(beam, "LOGITS", rows_at_once * BEAM * mt5.vocabulary_size)
        same(ours(mt5, examples, AFTER), whole)


def test_bf16_scores_are_near(
    t5: Any, writer: Callable[[str], Path], examples: tuple[Example, ...]
) -> None:
    short = load_model(str(writer("t5")), device="cpu", precision="bf16")
    exact = dict(ours(t5, examples, AFTER))
    near = generate(short, examples, AFTER, WORDS, wanted=5, beam=BEAM)
    assert len(near) == 5
    for one in near:
        assert one.log_prob == pytest.approx(exact[str(one.template)], abs=0.1)


def test_rows_of_the_vocabulary_that_no_token_has_count_for_nothing(
    t5: Any, examples: tuple[Example, ...]
) -> None:
    before = ours(t5, examples, AFTER)
    head = t5._model.lm_head.weight
    kept = head.detach().clone()
    assert len(head) == len(t5.tokenizer) + toy_writer.UNUSED
    try:
        with torch.no_grad():
            head[len(t5.tokenizer) :] = 100.0 * kept.mean(0).sign()
        assert ours(t5, examples, AFTER) == before
    finally:
        with torch.no_grad():
            head.copy_(kept)


def ids(tokenizer: Any, source: str) -> list[int]:
    """Token ids of a text whose pieces stand between spaces."""
    return [tokenizer.get_vocab()[piece] for piece in source.split()]


# hard_prompts.md section 6, case 18
@pytest.mark.parametrize(
    ("placement", "written", "expected"),
    [
        (
            AFTER,
            "<extra_id_0> ▁a <extra_id_1> ▁truly . <extra_id_2>",
            "*cls**sent_0*_a*mask*_truly.*sep+*",
        ),
        (BEFORE, "<extra_id_0> ▁it ▁was <extra_id_1> . </s>", "*cls*_it_was*mask*.*+sent_0**sep+*"),
        (
            BETWEEN,
            "<extra_id_0> . <extra_id_1> , ▁the ▁film ▁is ▁good , <extra_id_2>",
            "*cls**sent-_0*.*mask*,_the_film_is_good,*+sentl_1**sep+*",
        ),
    ],
    ids=["after", "before", "between"],
)
def test_generated_text_reads_as_lm_bffs_template(
    placement: Any, written: str, expected: str, t5_words: Any
) -> None:
    template = to_template(t5_words, ids(t5_words, written), placement)
    assert str(template) == str(read_template(expected)).strip()
    assert template == parse(str(template))


@pytest.fixture(scope="module")
def t5_words() -> Any:
    return toy_writer.tokenizer("t5")


@pytest.mark.parametrize(
    "written",
    [
        "<extra_id_0> ▁a </s>",  # no mask: case 18
        "<extra_id_0> ▁a <extra_id_1> ▁film",  # unfinished
        "▁a <extra_id_0> ▁it <extra_id_1> . </s>",  # does not begin with the first sentinel
        "<extra_id_0> ▁a <extra_id_1> ▁it <extra_id_1> . </s>",  # two masks
        "<extra_id_0> ▁a <extra_id_1> ▁it <extra_id_3> . </s>",  # a stray sentinel
        "<extra_id_0> ▁a <extra_id_2> ▁it <extra_id_1> . </s>",
        "<extra_id_0> ▁a <unk> <extra_id_1> . </s>",
        "",
    ],
)
def test_what_is_no_template_is_refused(written: str, t5_words: Any) -> None:
    assert to_template(t5_words, ids(t5_words, written), AFTER) is None


def test_signs_of_the_template_languages_are_words_like_others(t5_words: Any) -> None:
    written = ids(t5_words, "<extra_id_0> _ { } * <extra_id_1> * { </s>")
    template = to_template(t5_words, written, AFTER)
    assert str(template) == "{text}_{{}}* {mask}*{{"
    assert template == read_template("{text}_{{}}* {mask}*{{")
    # as the search reads it again, it would be LM-BFF's: `*cls*` opens their templates
    star = "<extra_id_0> * c l s * <extra_id_1> . </s>"
    assert to_template(t5_words, ids(t5_words, star), BEFORE) is None
    pieces = to_template(t5_words, ids(t5_words, star), AFTER)
    assert str(pieces) == "{text}*cls* {mask}."


def test_a_sentinel_written_in_a_text_opens_no_gap(t5: Any, mt5: Any) -> None:
    for model in (t5, mt5):
        vocabulary = model.tokenizer.get_vocab()
        signs = {token for name, token in vocabulary.items() if "extra_id" in name}
        example = Example("a <extra_id_0> film <extra_id_1> .", label="good")
        row = shown_row(model.tokenizer, AFTER, example, WORDS)
        opened = [token for token in row.ids if token in signs]
        assert opened == list(grammar(model.tokenizer, "sane").sentinels[:2])
        assert row.ids[-1] == model.tokenizer.eos_token_id


def test_of_long_texts_what_is_next_to_the_gap_is_read(t5: Any) -> None:
    text = "very " * 300
    for placement in (AFTER, BEFORE):
        ends = Example(f"a plot {text}story", label="good")
        row = shown_row(t5.tokenizer, placement, ends, WORDS)
        pieces = t5.tokenizer.convert_ids_to_tokens(row.ids)
        near, far = ("▁story", "▁plot") if placement is AFTER else ("▁plot", "▁story")
        assert len(row.ids) < 110
        assert near in pieces
        assert far not in pieces


@pytest.fixture(scope="module")
def proposed(t5: Any, builtin: Any, reviews: tuple[Example, ...], embed: Any) -> Any:
    task = Task("single", ("negative", "positive"))
    words = Verbalizer((("negative", ("terrible",)), ("positive", ("great",))))
    return propose_templates(t5, builtin, reviews, task, words, embed=embed, count=6, seed=1)


def test_a_t5_proposes_valid_templates_for_another_model(proposed: Any) -> None:
    assert len(proposed) == 6
    assert len({one.text.lower() for one in proposed}) == 6
    for one in proposed:
        assert one.source == "generated"
        assert str(read_template(one.text)) == one.text
        check_template(read_template(one.text), "single")
        assert "extra_id" not in one.text
        assert one.score <= 0.0


def test_placements_take_turns_each_best_first(proposed: Any) -> None:
    before = [one for one in proposed if not one.text.startswith("{text}")]
    after = [one for one in proposed if one.text.startswith("{text}")]
    assert before
    assert after
    for some in (before, after):
        assert [one.score for one in some] == sorted((one.score for one in some), reverse=True)
    assert {proposed[0], proposed[1]} == {before[0], after[0]}


def test_pairs_are_joined_and_the_same_seed_gives_the_same(
    t5: Any, pairs: tuple[Example, ...], embed: Any
) -> None:
    task = dataclasses.replace(TASK, kind="pair")
    runs = [
        propose_templates(t5, t5, pairs, task, WORDS, embed=embed, count=4, seed=3) for _ in "ab"
    ]
    assert runs[0] == runs[1]
    assert len(runs[0]) == 4
    for one in runs[0]:
        assert one.text.startswith("{text|strip_final_punctuation}")
        assert one.text.endswith(" {text_b|lower_first}")


def test_a_causal_model_gets_no_text_behind_the_mask(
    t5: Any, tiny_checkpoint: Callable[..., Path], examples: tuple[Example, ...], embed: Any
) -> None:
    model = load_model(str(tiny_checkpoint("gpt2")), device="cpu", precision="fp32")
    words = Verbalizer((("bad", ("bad",)), ("good", ("good",))))
    found = propose_templates(t5, model, examples, TASK, words, embed=embed, count=3, seed=0)
    assert len(found) == 3
    assert all(one.text.startswith("{text}") for one in found)


def test_without_time_there_is_nothing_and_no_error(
    t5: Any, builtin: Any, examples: tuple[Example, ...], embed: Any
) -> None:
    found = propose_templates(t5, builtin, examples, TASK, WORDS, embed=embed, seed=0, seconds=0.0)
    assert found == ()


def test_only_models_with_sentinels_generate(
    t5: Any, mt5: Any, builtin: Any, tiny_checkpoint: Callable[..., Path]
) -> None:
    bart = load_model(str(tiny_checkpoint("bart")), device="cpu", precision="fp32")
    assert [can_generate(one) for one in (t5, mt5, bart, builtin)] == [True, True, False, False]


def test_the_rules_rank_differently(t5: Any, examples: tuple[Example, ...]) -> None:
    """Scores of one template under both: they are other figures, not another name."""
    sane, reference = (dict(ours(t5, examples, AFTER, rule)) for rule in ("sane", "reference"))
    both = set(sane) & set(reference)
    assert both
    assert all(reference[text] > sane[text] for text in both)  # Jensen: log-sum-exp is convex
