"""The whole path in Chinese: a character vocabulary, no English word in it."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import toy
from test_proposing import pool

from autoprompt.text.template import check_template, parse

THINGS = ("这本书", "这部电影", "这家店", "那个手机", "房间", "早饭", "他的歌", "那条路")
GOOD = ("很有意思", "让人喜欢", "非常漂亮", "又快又便宜", "让我很高兴")
BAD = ("太没意思", "让人失望", "又脏又旧", "又慢又贵", "让我很生气")
CUES = ("真", "很", "我觉得", "总的来说", "是真的")
STEPS = 300
LABELS = {"正面": (GOOD, "好"), "负面": (BAD, "差")}


def sentences(count: int, seed: int) -> list[tuple[str, str, str]]:
    """Texts, their labels, and the text with a cue and the word that the label stands for."""
    rng = random.Random(seed)
    found = []
    for number in range(count):
        label = tuple(LABELS)[number % 2]
        phrases, word = LABELS[label]
        first, second = (f"{rng.choice(THINGS)}{rng.choice(phrases)}" for _ in range(2))
        text = f"{first}，{second}。"
        cue = rng.choice(CUES)
        told = f"{text}{cue}{word}。" if rng.random() < 0.7 else f"{cue}{word}，{text}"
        found.append((text, label, told))
    return found


@pytest.fixture(scope="module")
def chinese_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny BERT that has learnt to fill characters of such sentences."""
    import torch
    from transformers import BertConfig, BertForMaskedLM, BertTokenizer

    folder = tmp_path_factory.mktemp("chinese")
    texts = [told for _, _, told in sentences(600, seed=1)]
    letters = sorted({letter for text in texts for letter in text})
    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters]
    tokenizer = BertTokenizer(
        vocab={name: number for number, name in enumerate(names)}, model_max_length=64
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = BertForMaskedLM(
            BertConfig(
                vocab_size=len(names),
                hidden_size=48,
                num_hidden_layers=2,
                num_attention_heads=4,
                intermediate_size=96,
                max_position_embeddings=64,
            )
        ).train()
        optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3)
        rows: Any = tokenizer(texts, padding=True, return_tensors="pt")
        ids, mask = rows["input_ids"], rows["attention_mask"]
        answers = torch.tensor(tokenizer.convert_tokens_to_ids(["好", "差"]))
        for step in range(STEPS):
            for group in optimiser.param_groups:
                group["lr"] = 3e-3 * (1 - step / STEPS)
            chosen = torch.randint(len(ids), (32,))
            hidden = (torch.rand(32, ids.shape[1]) < 0.1) & (ids[chosen] > 4)
            hidden |= torch.isin(ids[chosen], answers)
            inputs = ids[chosen].masked_fill(hidden, names.index("[MASK]"))
            labels = ids[chosen].masked_fill(~hidden, -100)
            loss = model(inputs, attention_mask=mask[chosen], labels=labels).loss
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    model.eval().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_a_search_in_chinese_ends_in_a_bundle_that_predicts(
    chinese_model: Path, tmp_path: Path
) -> None:
    rows = [(text, label) for text, label, _ in sentences(24, seed=2)]
    data = toy.write_csv(tmp_path / "train.csv", rows)
    run = tmp_path / "run"
    keys = ("--preset", "zero_shot", "--trials", 4, "proposals.templates=12", "proposals.keep=6")
    said = toy.search(data, run, chinese_model, *keys)
    assert "the model's vocabulary lacks" in said.err  # of the manual templates
    assert "embeddings: its sentence encoder knows English" in said.err
    templates = pool(run)
    proposed = [text for source, texts in templates.items() if source != "manual" for text in texts]
    assert len(proposed) == 6
    for text in proposed:
        check_template(parse(text), "single")
        assert any("\u4e00" <= letter <= "\u9fff" for letter in text), text
        assert " " not in text.replace("{text} ", "").replace(" {text}", ""), text
        assert "." not in text  # but 。
    words = pool(run, "words")
    assert any("by" in source or "words" in source for source in words)
    unseen = [(text, label) for text, label, _ in sentences(20, seed=3)]
    asked = toy.write_csv(tmp_path / "asked.csv", [(text,) for text, _ in unseen], ("text",))
    answered = toy.command("predict", run / "bundle", asked, "--proba")
    assert answered.code == 0, answered.err
    labels = [json.loads(line)["label"] for line in answered.out.splitlines()]
    right = [found == label for found, (_, label) in zip(labels, unseen, strict=True)]
    assert sum(right) >= 18
