"""Several files to a prompt pool, and a search that begins with it, through the command line."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import toy

from autoprompt.search.stop import Stopped
from storage.store import Store

POOLS = ('space.template=["{text} it was {mask} ."]', 'space.words=["bad=dull; good=brave"]')
QUICK = ("confirm.blocks=0", "final.train=false")
OWN = ("--template", "{text} it was {mask} .")


@pytest.fixture(scope="module")
def other_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another task, with labels of its own."""
    rows = [(text, {"good": "yes", "bad": "no"}[label]) for text, label in toy.rows(8, 40)]
    return toy.write_csv(tmp_path_factory.mktemp("other") / "other.csv", rows)


@pytest.fixture(scope="module")
def new_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Texts that train no pool."""
    return toy.write_csv(tmp_path_factory.mktemp("new") / "new.csv", toy.rows(12, 60))


@pytest.fixture(scope="module")
def pool(
    toy_data: Path, other_data: Path, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A pool of both tasks. Read it only."""
    folder = tmp_path_factory.mktemp("pools") / "of" / "toys" / "pool"  # parents are made
    more = ("--words", "bad=terrible; good=great", "", "--pool-size", 3, "--json")
    said = train(toy_data, other_data, out=folder, model=tiny_model, more=(*OWN, *more))
    assert said.code == 0, said.err
    tasks = said.document["tasks"]
    assert [task["rows"] for task in tasks] == [24, 16]
    assert [task["steps"] for task in tasks] == [2, 2]
    assert [list(task["words"]) for task in tasks] == [["bad", "good"], ["no", "yes"]]
    assert "step 4 of 4: loss" in said.err
    return folder


def train(*data: Path, out: Path, model: Path, more: tuple[object, ...] = ()) -> toy.Said:
    short = ("--steps", 4, "--prompt-length", 2, "--device", "cpu")
    return toy.command("pool", "train", *data, "--out", out, "--model", model, *short, *more)


def begin(data: Path, run: Path, pool: Path, *more: object) -> toy.Said:
    asked = more if "--trials" in more else ("--trials", 2, *more)
    asked = (*POOLS, *asked)
    return toy.command("search", data, "--out", run, "--pool", pool, *toy.TINY, *asked)


def dynamic(run: Path) -> list[dict[str, Any]]:
    return [row for row in toy.board(run) if row["method"] == "dynamic"]


def test_a_search_begins_with_the_pool_and_needs_it_no_more(
    pool: Path, new_data: Path, tmp_path: Path
) -> None:
    own, run, bundle = tmp_path / "pool", tmp_path / "run", tmp_path / "bundle"
    shutil.copytree(pool, own)
    said = begin(
        new_data, run, own, "final.train=false"
    )  # neither model nor preset: they are the pool's
    assert said.code == 0, said.err
    assert len(dynamic(run)) == 2
    for row in dynamic(run):
        found = row["settings"]
        assert (found["controller"], found["prompt_init"]) == ("adap_ins_vec", "pool")
        assert (found["prompt_length"], found["pool_size"]) == (2, 3)
    shutil.rmtree(own)  # the run has its own copy
    again = toy.command("search", new_data, "--out", run, "--trials", 3)
    assert again.code == 0, again.err
    assert len(dynamic(run)) == 3
    mixed = toy.write_csv(tmp_path / "test.csv", [*toy.rows(4, 80), *toy.rows(2, 0)])
    tested = toy.command("test", run, mixed, "--json").document
    assert (tested["n"], tested["overlap"], tested["without_overlap"]["n"]) == (12, 4, 8)
    last = max(row["trial"] for row in dynamic(run))
    assert toy.command("export", run, bundle, "--trial", last).code == 0
    assert toy.command("predict", bundle, new_data, "--device", "cpu").code == 0


def test_a_run_that_was_stopped_as_it_began_goes_on_with_its_own_copy(
    pool: Path, new_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between run.toml and the frozen study; what it goes on with is then not copied again."""

    def stops(*_: object) -> None:
        raise Stopped(130)

    run = tmp_path / "run"
    monkeypatch.setattr(Store, "freeze_pool", stops)
    assert begin(new_data, run, pool, "--trials", 1, *QUICK).code == 130
    monkeypatch.undo()
    assert (run / "run.toml").exists()
    said = toy.command("search", new_data, "--out", run)
    assert said.code == 0, said.err
    assert len(dynamic(run)) == 1


def test_beside_other_presets_only_dynamic_prompts_begin_with_it(
    pool: Path, new_data: Path, tmp_path: Path
) -> None:
    both = ("--preset", "prompt_tuning", "dynamic", "space.prompt_position=end", "--trials", 6)
    said = begin(new_data, tmp_path / "run", pool, *both, *QUICK)
    assert said.code == 0, said.err
    begun = {
        (row["method"], row["settings"].get("prompt_init")) for row in toy.board(tmp_path / "run")
    }
    assert {init for method, init in begun if method == "dynamic"} == {"pool"}
    assert "pool" not in {init for method, init in begun if method == "prompt_tuning"}
    assert {"dynamic", "prompt_tuning"} <= {method for method, _ in begun}


def test_a_run_keeps_its_pool(
    pool: Path, toy_data: Path, new_data: Path, tiny_model: Path, tmp_path: Path
) -> None:
    run, other = tmp_path / "run", tmp_path / "other"
    assert begin(new_data, run, pool, "--trials", 1, *QUICK).code == 0
    assert train(toy_data, out=other, model=tiny_model, more=("--pool-size", 3)).code == 0
    said = begin(new_data, run, other, "--trials", 3, *QUICK)
    assert said.code == 2
    assert f"--pool: is another than the one that {run} was started with" in said.err
    (run / "pool" / "pool.safetensors").write_bytes(b"")
    said = toy.command("search", new_data, "--out", run, "--trials", 3)
    assert said.code == 2
    assert "sha256 differs" in said.err


def test_what_a_search_cannot_begin_with(
    pool: Path, new_data: Path, tiny_model: Path, tiny_checkpoint: Any, tmp_path: Path
) -> None:
    other = tiny_checkpoint("bert", hidden_size=48)
    for more, said in (
        (("--preset", "hard"), "--pool: a pool holds prompts of 'dynamic'"),
        (
            ("space.controller=adap_pos",),
            "space.controller: given, but for 'dynamic' it follows from --pool",
        ),
        (("--model", other), "was trained with revision"),
    ):
        found = begin(new_data, tmp_path / "runs" / "run", pool, *more)
        assert found.code == 2, (more, found.err)
        assert said in found.err
        assert list(tmp_path.iterdir()) == []
    known = toy.write_csv(tmp_path / "known.csv", [*toy.rows(4, 60), toy.rows(1)[0]])
    found = begin(known, tmp_path / "run", pool)
    assert found.code == 3
    assert "1 of its 9 rows trained the pool" in found.err
    asked = ("--preset", "dynamic", "space.prompt_init=pool", "--trials", 1)
    found = toy.command(
        "search", new_data, "--out", tmp_path / "run", "--model", tiny_model, *asked
    )
    assert found.code == 2
    assert "give one with --pool" in found.err


def test_what_a_pool_cannot_be_trained_with(
    toy_data: Path, other_data: Path, tiny_model: Path, tmp_path: Path
) -> None:
    one = toy.write_csv(tmp_path / "one.csv", [("a film", "x"), ("a plot", "x")])
    there = tmp_path / "there"
    there.mkdir()
    for data, more, code, said in (
        ((toy_data, other_data), ("--words", "bad=dull; good=brave"), 2, "no label named 'bad'"),
        ((toy_data, other_data), ("--words", "", "--words", "yes=x"), 2, "other.csv: words: label"),
        ((toy_data,), ("--words", "bad=dull; good=qqqq"), 2, "'qqqq' of label 'good'"),
        ((toy_data,), (*OWN, *OWN), 2, "--template: 2 values for 1 DATA"),
        ((toy_data,), ("--words", "bad=dull", "good=brave"), 2, 'all its labels: "a=x; b=y"'),
        ((toy_data, other_data, toy_data), (), 2, f"holds the rows of {toy_data}, asked alike"),
        ((toy_data,), ("--template", "{text}"), 2, "train.csv: template"),
        ((toy_data,), ("--template", "{soft:2} {text} {mask}"), 2, "leave it out"),
        ((toy_data, one), (), 3, "one.csv: label: all rows have the one class"),
        ((tmp_path / "none.csv",), (), 3, "none.csv"),
        ((toy_data,) * 5, (), 2, "--steps: 4 for 5 tasks"),
        ((toy_data,), ("--learning-rate", "0"), 2, "--learning-rate: 0.0 is no number above 0"),
        ((toy_data,), ("--learning-rate", "nan"), 2, "--learning-rate: nan is no number above 0"),
        (
            (toy_data,),
            ("--learning-rate", "1e9"),
            4,
            "--learning-rate: 1000000000.0 taught nothing",
        ),
        ((toy_data,), ("--prompt-length", "58"), 2, "--prompt-length: 58 tokens leave no room"),
        ((toy_data,), ("--prompt-length", "600"), 2, "reads 64 tokens and the template takes 6; "),
        (
            (toy_data,),
            ("--template", f"{'a ' * 70}{{text}} {{mask}}"),
            2,
            "a {text} {mask}': leaves no room",
        ),
    ):
        found = train(*data, out=tmp_path / "pool", model=tiny_model, more=more)
        assert (found.code, said in found.err) == (code, True), (more, found.err)
        assert len(found.err.strip().splitlines()[-1]) > 0
        assert not (tmp_path / "pool").exists()
    found = train(toy_data, out=there, model=tiny_model)
    assert found.code == 2
    assert "exists already" in found.err
    assert list(there.iterdir()) == []


def test_a_place_that_cannot_be_written_is_found_before_the_model_is_loaded(
    toy_data: Path, tiny_model: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("mine", "utf-8")
    for place in ("file/pool", "file/of/mine/pool"):
        found = train(toy_data, out=tmp_path / place, model=tiny_model)
        assert found.code == 2
        assert f"--out {tmp_path / place}: not a directory" in found.err
        assert "loading" not in found.err
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert train(toy_data, out=tmp_path / "new/pool", model=tmp_path / "none").code == 2
    assert [path.name for path in tmp_path.iterdir()] == ["file"]  # the parents have gone again


def test_the_same_rows_may_be_asked_in_two_ways(
    toy_data: Path, tiny_model: Path, tmp_path: Path
) -> None:
    words = ("--words", "bad=dull; good=brave", "bad=boring; good=great")
    more = (*OWN, "{mask} : {text}", *words)
    said = train(toy_data, toy_data, out=tmp_path / "pool", model=tiny_model, more=more)
    assert said.code == 0, said.err
    found = json.loads((tmp_path / "pool" / "pool.json").read_text("utf-8"))["tasks"]
    assert [task["template"] for task in found] == [OWN[1], "{mask} : {text}"]
    assert [task["words"]["bad"] for task in found] == [["dull"], ["boring"]]


def test_labels_may_hold_any_sign_and_words_several_tokens(
    tiny_model: Path, tmp_path: Path
) -> None:
    names = {"bad": "a;b", "good": "-1=c"}
    data = toy.write_csv(
        tmp_path / "data.csv", [(text, names[label]) for text, label in toy.rows(4)]
    )
    asked = ("--words", "-1=c=greatly; a;b=dull,terrible")
    said = train(data, out=tmp_path / "pool", model=tiny_model, more=(*OWN, *asked, "--json"))
    assert said.code == 0, said.err
    assert said.document["tasks"][0]["words"] == {"-1=c": ["greatly"], "a;b": ["dull", "terrible"]}


def test_a_pool_whose_model_is_gone_names_it(
    pool: Path, new_data: Path, toy_data: Path, tiny_model: Path, tmp_path: Path
) -> None:
    model, other = tmp_path / "model", tmp_path / "pool"
    shutil.copytree(tiny_model, model)
    assert train(toy_data, out=other, model=model).code == 0
    shutil.rmtree(model)
    said = begin(new_data, tmp_path / "run", other)
    assert said.code == 2
    assert f"--pool {other}: was trained with the model {model}, which is not there" in said.err
    assert not (tmp_path / "run").exists()


def test_a_search_in_python_begins_with_a_pool(pool: Path, new_data: Path, tmp_path: Path) -> None:
    from autoprompt import PromptSearch

    settings = [*POOLS, *QUICK, "train.steps=2", "blocks.seeds=1", "blocks.folds=2"]
    out, found = tmp_path / "run", PromptSearch(pool=str(pool), trials=1, device="cpu")
    found.set_params(out=out, settings=settings).fit(str(new_data))
    assert {row["settings"]["prompt_init"] for row in dynamic(out)} == {"pool"}
