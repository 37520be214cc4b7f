"""Presets: every shipped one loads; a user's file is read, or refused with file, key and value."""

from __future__ import annotations

import pytest

from search_spaces import presets
from search_spaces.dimension import Choice, SpaceError
from search_spaces.space import Space


def test_shipped_presets():
    assert set(presets.names()) >= {
        "embeddings",
        "fine_tuning",
        "full",
        "hard",
        "soft_verbalizer",
        "tfidf",
        "zero_shot",
    }
    for name in presets.names():
        space = presets.load(name)
        assert space.methods
        assert set(space.open) <= {"template", "words", "patterns"}
        assert presets.about(name).endswith(".")
    quick = Space.merge(*(presets.load(name) for name in ("zero_shot", "soft_verbalizer", "hard")))
    assert presets.load("quick") == quick


def test_full_asks_every_method_as_its_own_preset_does():
    """Joined, no dimension is lost, gained or narrowed for any method. Methods that show
    demonstrations stand alone: they differ in how many, which a sampler must ask all alike."""
    full = presets.load("full")
    assert set(full.methods) == {
        name
        for name in presets.names()
        # a trigger search takes what the others take together; pet needs texts without labels
        if presets.load(name).open
        and name not in ("full", "quick", "in_context", "lm_bff", "autoprompt_triggers", "pet")
    }
    for method in full.methods:
        alone, within = presets.load(method), full.override("method", method)
        if method == "p_tuning_v2":  # its head reads no template
            alone = alone.override("readout", "verbalizer")
        assert {(d.name, str(d), d.when) for d in within.dimensions} == {
            (d.name, str(d), d.when) for d in alone.dimensions
        }


def test_unknown_preset_suggests():
    with pytest.raises(SpaceError, match="did you mean 'zero_shot'"):
        presets.load("zero-shot")


def test_a_file_of_the_users_own(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(
        'include = ["zero_shot"]\n[space]\nmethod = "hard"\ntemplate = []\nwords = []\n'
        'trainable = "all"\ncalibration = "none"\nsteps = [10, 30]\nbatch_size = 4\n'
        "learning_rate = { low = 1e-5, high = 1e-4, log = true }\n"
    )
    space = presets.load(str(path))
    assert space.methods == ("zero_shot", "hard")
    assert space.open == ("template", "words")


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("[space]\nmethod = 'hard'\nsteps = 1.5\n", ("steps", "1.5", "whole number")),
        ("[space]\nmethod = 'hard'\nstep = 1\n", ("'step'", "did you mean 'steps'")),
        ("[spase]\nmethod = 'hard'\n", ("'spase'", "did you mean 'space'")),
        ("[space]\nsteps = 5\n", ("space.method", "missing")),
        ("[space\n", ("is not TOML",)),
        ("include = ['hrad']\n", ("did you mean 'hard'",)),
        ("include = 'hard'\n", ("include", "'hard'", "list")),
        ("include = ['{self}']\n", ("circle",)),
        ("space = 3\n", ("space", "3", "table")),
        ("about = 'nothing'\n", ("nothing to merge",)),
    ],
)
def test_broken_files(tmp_path, text, parts):
    path = tmp_path / "mine.toml"
    path.write_text(text.replace("{self}", str(path)))
    with pytest.raises(SpaceError) as caught:
        presets.load(str(path))
    message = str(caught.value)
    assert all(part in message for part in (str(path), *parts)), message
    assert "\n" not in message


def test_a_mark_of_utf8_is_no_part_of_a_file(tmp_path):
    """Some editors put it first."""
    path = tmp_path / "mine.toml"
    path.write_text('include = ["tfidf"]\n', encoding="utf-8-sig")
    assert presets.load(str(path)) == presets.load("tfidf")


def test_unreadable_files(tmp_path):
    with pytest.raises(SpaceError, match="no file"):
        presets.load(str(tmp_path / "none.toml"))
    (tmp_path / "bytes.toml").write_bytes(b"about = '\xff'")
    with pytest.raises(SpaceError, match="not UTF-8"):
        presets.load(str(tmp_path / "bytes.toml"))
    (tmp_path / "folder.toml").mkdir()
    with pytest.raises(SpaceError, match="cannot read"):
        presets.load(str(tmp_path / "folder.toml"))


def test_templates_and_words_of_full_depend_on_nothing():
    """What all methods share, the sampler can model together with the method."""
    shared = [d for d in presets.load("full").dimensions if d.name in ("template", "words")]
    assert [d.when for d in shared] == [(), ()]


def test_no_preset_tries_contextual_calibration() -> None:
    """It was never above the prior on average: benchmarks/results/calibration.md."""
    found = [d for name in presets.names() for d in presets.load(name).dimensions]
    assert not [d for d in found if isinstance(d, Choice) and "contextual" in d.options]
