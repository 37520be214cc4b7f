"""A bundle's README: what it is, how to use it, how good it is. Writes text, computes nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from autoprompt.data.metrics import few_blocks
from autoprompt.report.prompt import demonstrations_line
from autoprompt.text.markdown import escape, fenced
from autoprompt.text.template import parse, render_for_people

FIGURES = ("accuracy", "macro_f1", "mcc")


def render_card(
    described: Mapping[str, Any],
    metrics: Mapping[str, Any],
    provenance: Mapping[str, Any],
) -> str:
    """Markdown from what `prompt.toml`, `metrics.json` and `provenance.json` hold."""
    sections = [
        f"# Text classifier made by autoprompt\n\n{_about(described)}",
        _prompt(described),
        _demonstrations(described),
        _members(described),
        _usage(described),
        _figures(metrics),
        _limits(described, provenance),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def _about(described: Mapping[str, Any]) -> str:
    labels = ", ".join(f"`{_plain(label)}`" for label in described["task"]["labels"])
    what = "pairs of texts" if described["task"]["kind"] == "pair" else "texts"
    method = described["settings"].get("method", "unknown")
    model = described.get("model")
    of = f" on the model `{_plain(model['name'])}` (revision {model['revision']})" if model else ""
    return f"Labels {what} as one of {labels}. Method `{method}`{of}."


def _prompt(described: Mapping[str, Any]) -> str:
    prompt = described.get("prompt")
    if not prompt:
        return ""
    if "patterns" in prompt:
        return _patterns(prompt, described.get("learned", {}))
    pair = described["task"]["kind"] == "pair"
    shown = render_for_people(
        parse(prompt["template"]), "Your text.", "Your second text." if pair else None
    )
    words = _words(prompt)
    trained = described["settings"].get("trainable")
    notes = {
        "verbalizer": "The words are where the trained class vectors in `weights.safetensors` "
        "began; alone they answer less well.",
        "bias": "The prompt belongs to the tuned biases in `weights.safetensors`; with the "
        "untuned model it answers less well.",
        "all": "The prompt belongs to the tuned weights in `weights.safetensors`; with the "
        "untuned model it answers less well.",
    }
    note = notes.get(str(trained), "")
    if described["settings"].get("prompt_length"):
        learned = (
            "The words are half of the prompt: what is in `soft_prompt.safetensors` stands beside "
            "them."
        )
        note = f"{learned} {note}".strip()
    return (
        f"## Prompt\n\n{_block(prompt['template'])}\n\nA text becomes\n\n{_block(shown)}\n\n"
        f"{words}" + (f"\n\n{note}" if note else "")
    )


def _words(prompt: Mapping[str, Any]) -> str:
    lines = "\n".join(
        f"| {escape(entry['label'])} | {', '.join(map(escape, entry['words']))} |"
        for entry in prompt["words"]
    )
    return f"| label | words |\n| --- | --- |\n{lines}"


def _patterns(prompt: Mapping[str, Any], learned: Mapping[str, Any]) -> str:
    """Of a classifier that several prompts taught: it reads bare texts itself."""
    right = learned.get("pattern_accuracies") or [None] * len(prompt["patterns"])
    shown = "\n".join(
        f"{template}" + ("" if share is None else f"    ({share:.2f} right before training)")
        for template, share in zip(prompt["patterns"], right, strict=False)
    )
    return (
        "## Patterns\n\nThe classifier reads a text as it is. It was taught by language models "
        "that were tuned with these patterns and labelled texts without labels; the share of the "
        "labelled rows that each had right before training is what weighs them where `reduction` "
        f"is `wmean`.\n\n{_block(shown)}\n\n{_words(prompt)}"
    )


def _demonstrations(described: Mapping[str, Any]) -> str:
    line = demonstrations_line(described["settings"])
    if not line:
        return ""
    return (
        f"## Demonstrations\n\nBeside every text stand labelled ones: {line}. They are in "
        "`demonstrations.json`, so this bundle **contains texts of the training rows**; share it "
        "only where these may be shared."
    )


def _members(described: Mapping[str, Any]) -> str:
    members = described.get("members")
    if not members:
        return ""
    rows = [
        f"| {one['weight']:.3f} | `{one['settings'].get('method')}` "
        f"| {_code(one.get('template', ''))} | {_pairs(one.get('words', ()))} |"
        for one in members
    ]
    learned = {
        "mean": "The weights are equal.",
        "weighted": "The weights are proportional to the members' accuracies on training rows they "
        "were not fitted to.",
        "stacked": "The weights give the best answers on training rows the members were not fitted "
        "to.",
    }
    return (
        f"## Ensemble of {len(members)}\n\nEvery member answers, and the answer is the weighted "
        "sum of their log-probabilities. "
        f"{learned.get(str(described['settings'].get('weighting')), '')}\n\n"
        "| weight | method | template | words |\n| --- | --- | --- | --- |\n" + "\n".join(rows)
    )


def _block(text: str) -> str:
    return "\n".join(fenced(text))


def _code(text: str) -> str:
    return f"`{_plain(text)}`" if text else ""


def _pairs(entries: Sequence[Mapping[str, Any]]) -> str:
    pairs = (f"{escape(one['label'])} = {', '.join(map(escape, one['words']))}" for one in entries)
    return "; ".join(pairs)


def _usage(described: Mapping[str, Any]) -> str:
    pair = described["task"]["kind"] == "pair"
    rows = '[("First text.", "Second text.")]' if pair else '["A text.", "Another text."]'
    return (
        "## Use\n\n```python\nfrom autoprompt import load\n\n"
        "predictor = load('BUNDLE')  # this folder\n"
        f"print(predictor.predict({rows}))\n```\n\n"
        "```sh\nautoprompt predict BUNDLE DATA.csv -o predictions.jsonl\n```"
    )


def _figures(metrics: Mapping[str, Any]) -> str:
    lines = []
    trial = metrics.get("trial")
    if isinstance(trial, Mapping) and trial.get("mean") is not None:
        bound, blocks = trial.get("lower_bound"), int(trial.get("blocks") or 0)
        sure = f", lower bound (95 %) {bound:.3f}" if bound is not None else ""
        line = (
            f"Cross-validated on the labelled rows: {trial.get('metric')} {trial['mean']:.3f}"
            f"{sure} over {blocks} blocks."
        )
        if few_blocks(blocks, trial.get("sd")):
            line += " These are too few for a bound to rely on."
        if trial.get("stage") == "search":
            line += " It was chosen by these blocks, so they are likely too high."
        if trial.get("state") == "pruned":
            line += " It was given up after them."
        lines.append(line)
    tests = metrics.get("test") or []
    clean = {one.get("opening"): one for one in tests if one.get("subset") == "clean"}
    for one in tests:
        if one.get("subset") != "all":
            continue
        line = f"Test, opening {one.get('opening')}: {_scores(one)}."
        if known := one.get("overlap"):
            rest = clean.get(one.get("opening"))
            without = f"without them {_scores(rest)}" if rest else "so this is no test"
            line += f" {known} of these are among the labelled rows; {without}."
        if int(one.get("opening") or 1) > 1:
            line += " The search had been tested before."
        lines.append(line)
    return "## Figures\n\n" + "\n\n".join(lines) if lines else ""


def _scores(test: Mapping[str, Any]) -> str:
    values = ", ".join(f"{key} {test[key]:.3f}" for key in FIGURES if key in test)
    return f"{values} on {test.get('n')} rows"


def _limits(described: Mapping[str, Any], provenance: Mapping[str, Any]) -> str:
    rows = provenance.get("labelled_rows")
    seen = f"It was made from {rows} labelled rows. " if rows else ""
    if described["settings"].get("fidelity") == "reference":
        seen += (
            "With `fidelity = reference` an answer depends on the rows beside it and on chance, as "
            "in the reference code. "
        )
    return (
        f"## Limits\n\n{seen}Texts unlike those may get a confident wrong label, and it always "
        "answers with one of its labels. Probabilities are not calibrated to frequencies. "
        "Check it on texts of your own before you rely on it."
    )


def _plain(text: str) -> str:
    """A user's name on one line inside a span of code."""
    return " ".join(str(text).split()).replace("|", "\\|").replace("`", "'")
