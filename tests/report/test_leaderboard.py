"""Who is ranked where, who wins, and what the first line says."""

from __future__ import annotations

import statistics
from pathlib import Path

import pytest
from realistic_study import TEMPLATES, WORDS, add_trial, build, create
from scipy import stats

from autoprompt.report import leaderboard
from autoprompt.terminal import board_lines
from storage.store import Store

KEYS = [
    *("rank", "trial", "state", "baseline", "method", "template", "label_words", "settings"),
    *("metric", "mean", "sd", "lower_bound", "blocks", "stage", "seconds"),
]


@pytest.fixture
def store(tmp_path: Path):
    with Store.open(f"sqlite:///{tmp_path / 'study.db'}") as opened:
        yield opened


def steady(value: float, n: int = 8) -> list[float]:
    return [value + 0.01 * (-1) ** block for block in range(n)]


def test_a_row_has_the_documented_keys_and_the_corrected_bound(store):
    study = create(store)
    values = [0.75, 0.8125, 0.875, 0.8125, 0.75, 0.9375, 0.8125, 0.875]
    trial = add_trial(store, study, search=[1.0] * 8, confirm=values)
    (row,) = leaderboard.rows(store, study)
    assert list(row.to_dict()) == KEYS
    sd = statistics.stdev(values)
    # Nadeau & Bengio: four folds make n_eval / n_train = 1/3.
    bound = statistics.fmean(values) - stats.t.ppf(0.95, 7) * sd * (1 / 8 + 1 / 3) ** 0.5
    assert row.trial == trial
    assert row.mean == pytest.approx(statistics.fmean(values))
    assert row.sd == pytest.approx(sd)
    assert row.lower_bound == pytest.approx(bound)
    assert (row.blocks, row.stage, row.search_mean) == (8, "confirm", 1.0)
    assert row.to_dict()["label_words"] == WORDS[0]


def test_the_order_is_confirmed_complete_pruned_running_failed(store):
    study = create(store)

    def trial(n: int, **fields) -> int:
        return add_trial(store, study, settings={"n": n}, **fields)

    failed = trial(1, search=[0.99], state="failed", error="boom")
    running = trial(2, search=[0.99, 0.98], state="running")
    pruned_low = trial(3, search=steady(0.5, 3), state="pruned")
    pruned_high = trial(4, search=steady(0.97, 3), state="pruned")
    one_block = trial(5, search=[0.95])
    shaky = trial(6, search=[0.6, 1.0, 0.6, 1.0])
    solid = trial(7, search=steady(0.78))
    confirmed = trial(8, search=steady(0.9), confirm=steady(0.4))
    rows = leaderboard.rows(store, study)
    order = [confirmed, solid, shaky, one_block, pruned_high, pruned_low, running, failed]
    assert [row.trial for row in rows] == order
    assert [row.rank for row in rows] == list(range(1, 9))


def test_equal_trials_keep_the_order_of_their_ids(store):
    study = create(store)
    ids = [add_trial(store, study, settings={"n": n}, search=steady(0.8)) for n in range(4)]
    assert [row.trial for row in leaderboard.rows(store, study)] == ids


def test_a_repeated_candidate_is_scored_on_all_its_blocks(store):
    study = create(store)
    first = add_trial(store, study, search=[0.5, 0.6])
    again = store.start_trial(
        study.id, digest=leaderboard.rows(store, study)[0].digest, method="hard",
        template=TEMPLATES[0], label_words=WORDS[0], settings={}, optuna_number=1,
        baseline=False, versions={},
    )  # fmt: skip
    store.record_block(again, stage="search", block=2, seed=0, fold=2, metrics={"accuracy": 1.0})
    store.finish_trial(again, state="complete", seconds=1, tokens=1, peak_memory=1)
    rows = leaderboard.rows(store, study)
    assert [row.trial for row in rows] == [first, again]
    assert [row.mean for row in rows] == pytest.approx([0.7, 0.7])
    ((only, repeats),) = leaderboard.distinct(rows)
    assert (only.trial, repeats) == (first, (again,))


def test_the_seconds_of_a_block_are_those_of_both_stages(store):
    """A confirmation that was interrupted must not make the candidate look dear."""
    study = create(store)
    add_trial(store, study, search=[0.5] * 8, confirm=[0.5, 0.6, 0.7], seconds=110)
    (row,) = leaderboard.rows(store, study)
    assert (row.stage, row.blocks, row.block_seconds) == ("confirm", 3, 10)


def test_a_baseline_that_was_searched_as_well_keeps_its_row(store):
    study = create(store)
    searched = add_trial(store, study, method="zero_shot", search=steady(0.8))
    rival = add_trial(store, study, method="zero_shot", confirm=steady(0.8), baseline=True)
    rows = leaderboard.rows(store, study)
    assert len({row.digest for row in rows}) == 1
    assert {row.trial for row, _ in leaderboard.distinct(rows)} == {searched, rival}


def test_a_baseline_never_wins_and_is_named_first_when_it_is_surer(store):
    study = create(store)
    rival = add_trial(store, study, method="embeddings", template=None, words=None,
                      confirm=steady(0.9), baseline=True)  # fmt: skip
    calibrated = add_trial(store, study, method="zero_shot", confirm=steady(0.85), baseline=True)
    prompt = add_trial(store, study, search=steady(0.95), confirm=steady(0.8))
    rows = leaderboard.rows(store, study)
    assert [row.trial for row in rows] == [rival, calibrated, prompt]
    best = leaderboard.winner(rows)
    assert best is not None
    assert best.trial == prompt
    line = leaderboard.first_line(rows)
    assert "\n" not in line
    assert line.startswith("A baseline has the higher lower bound: ")
    assert f"--trial {rival}" in line
    assert line.index("embeddings") < line.index("best prompt")
    assert "0.900 ± 0.011" in line
    assert "0.800 ± 0.011" in line
    assert line.count("8 confirm blocks") == 2


@pytest.mark.parametrize(
    ("scores", "doubted"),
    [([0.8] * 2, True), ([0.8] * 7, True), (steady(0.8, 4), False), ([0.8] * 8, False)],
)
def test_the_first_line_says_when_a_baseline_had_few_blocks(store, scores, doubted):
    study = create(store)
    add_trial(store, study, method="fine_tuning", template=None, words=None,
              confirm=scores, baseline=True)  # fmt: skip
    add_trial(store, study, search=steady(0.78), confirm=steady(0.78))
    line = leaderboard.first_line(leaderboard.rows(store, study))
    better = "mean" if doubted else "lower bound"
    assert line.startswith(f"A baseline has the higher {better}: ")
    assert ("few to compare by" in line) is doubted


def test_rows_of_too_few_blocks_for_a_bound_are_ordered_by_their_means(store):
    study = create(store)
    equal = add_trial(store, study, settings={"n": 0}, confirm=[0.6, 0.6])
    better = add_trial(store, study, settings={"n": 1}, confirm=[0.7, 0.9])
    sure = add_trial(store, study, settings={"n": 2}, confirm=steady(0.5))
    rival = add_trial(store, study, method="embeddings", template=None, words=None,
                      confirm=[0.7, 0.7], baseline=True)  # fmt: skip
    rows = leaderboard.rows(store, study)
    assert [row.trial for row in rows] == [sure, better, rival, equal]
    line = leaderboard.first_line(rows)
    assert line.startswith("A baseline has the higher mean: ")
    assert "few to compare by" in line
    alone = [row for row in rows if row.trial in (better, rival)]
    assert leaderboard.baseline_ahead(alone) is None  # its bound is higher, its mean is not


def test_the_first_line_says_when_the_winner_itself_has_few_blocks(store):
    study = create(store)
    add_trial(store, study, search=steady(0.78), confirm=[0.78, 0.78])
    line = leaderboard.first_line(leaderboard.rows(store, study))
    assert line.endswith("over 2 confirm blocks, too few for a bound to rely on")


def test_four_equal_scores_are_no_certainty(store):
    study = create(store)
    chance = add_trial(store, study, settings={"n": 0}, confirm=[0.75] * 4)
    rival = add_trial(store, study, settings={"n": 1}, confirm=[0.7, 0.8, 0.6, 0.9] * 2)
    rows = leaderboard.rows(store, study)
    assert [row.trial for row in rows] == [rival, chance]


def test_the_first_line_names_the_winner_when_no_baseline_is_surer(store):
    study = create(store)
    add_trial(store, study, method="tfidf", template=None, words=None, baseline=True,
              confirm=[0.6, 1.0] * 4)  # fmt: skip
    prompt = add_trial(store, study, search=steady(0.75), confirm=steady(0.79))
    rows = leaderboard.rows(store, study)
    bound = leaderboard.figure(rows[0].lower_bound)
    assert leaderboard.first_line(rows) == (
        f"Best prompt: trial {prompt} (hard), accuracy 0.790 ± 0.011, lower bound {bound}"
        " over 8 confirm blocks"
    )


def test_without_prompts_the_best_trial_of_the_sampler_wins(store):
    study = create(store)
    add_trial(store, study, method="tfidf", template=None, words=None, search=steady(0.6))
    best = add_trial(store, study, method="embeddings", template=None, words=None,
                     search=steady(0.7))  # fmt: skip
    add_trial(store, study, method="majority", template=None, words=None, confirm=[0.25] * 8,
              baseline=True)  # fmt: skip
    rows = leaderboard.rows(store, study)
    won = leaderboard.winner(rows)
    assert won is not None
    assert won.trial == best
    assert leaderboard.first_line(rows).startswith(f"Best trial: trial {best} (embeddings)")


def test_a_sampled_rival_of_another_method_is_no_winner_beside_prompts(store):
    study = create(store)
    surer = add_trial(store, study, method="fine_tuning", template=None, words=None,
                      search=steady(0.9), confirm=steady(0.9))  # fmt: skip
    prompt = add_trial(store, study, search=steady(0.8), confirm=steady(0.8))
    rows = leaderboard.rows(store, study)
    won = leaderboard.winner(rows)
    assert won is not None
    assert won.trial == prompt
    assert f"--trial {surer}" in leaderboard.first_line(rows)


def test_before_anything_is_complete_the_line_says_so(store):
    study = create(store)
    assert leaderboard.rows(store, study) == []
    assert leaderboard.first_line([]) == "No prompt trial is complete yet"
    add_trial(store, study, search=[0.5], state="failed", error="x")
    add_trial(store, study, settings={"n": 1}, state="running")
    rows = leaderboard.rows(store, study)
    assert leaderboard.winner(rows) is None
    assert leaderboard.first_line(rows) == "No prompt trial is complete yet"
    assert rows[0].mean is None
    assert (rows[0].lower_bound, rows[0].blocks) == (None, 0)


def test_another_metric_is_read_from_the_same_blocks(store):
    study = create(store, metric="f1/bug")
    add_trial(store, study, search=[0.5, 0.5])
    (row,) = leaderboard.rows(store, study)
    assert (row.metric, row.mean, row.sd) == ("f1/bug", 0.25, 0.0)


def test_the_table_has_a_text_for_every_column(tmp_path):
    built = build(tmp_path)
    rows = leaderboard.rows(built.store, built.study)
    columns, lines = leaderboard.table(rows)
    assert len(lines) == 34
    assert {len(line) for line in lines} == {len(columns)}
    assert any("billing=invoice,payment" in line[-1] for line in lines)
    assert all(isinstance(cell, str) for line in lines for cell in line)
    built.store.close()


def test_what_there_was_no_time_for_is_counted_below_the_table(store):
    study = create(store)
    add_trial(store, study, settings={"n": 1}, search=steady(0.8))
    for n in (2, 3):
        add_trial(store, study, settings={"n": n}, state="pruned")
    add_trial(store, study, settings={"n": 4}, state="failed", error="boom")
    lines = board_lines(leaderboard.rows(store, study))
    assert lines[-1] == "(2 candidates without a block: there was no time)"
    shown = lines[lines.index("") + 2 : -1]
    assert [line.split()[2] for line in shown] == ["complete", "failed"]
    assert len(leaderboard.rows(store, study)) == 4
