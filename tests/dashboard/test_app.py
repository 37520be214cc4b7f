"""The dashboard as a process on a real database, and the notes it keeps."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

import pytest
from realistic_study import build, create

from autoprompt.dashboard import app
from storage.store import Store

optuna_dashboard = pytest.importorskip("optuna_dashboard", reason="extra 'dashboard' missing")

SERVE = """
import logging, signal, sys
from autoprompt.dashboard.app import serve
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in a background job's children
logging.basicConfig(level=logging.INFO)
serve(sys.argv[1], port=int(sys.argv[2]))
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def get(port: int, path: str, within: float = 30.0):
    deadline = time.monotonic() + within
    while True:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
                return json.load(answer)
        except (urllib.error.URLError, ConnectionError):
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


def test_serve_shows_the_study_with_a_note_on_every_trial(tmp_path):
    built = build(tmp_path, trials=12)
    built.store.close()
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "-c", SERVE, built.url, str(port)],
        stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    try:
        (listed,) = get(port, "/api/studies")["study_summaries"]
        assert listed["study_name"] == "tickets"
        for _ in range(100):  # the server answers at once, the notes follow
            study = get(port, f"/api/studies/{listed['study_id']}?after=0")
            if study["trials"][-1]["note"]["body"]:
                break
            time.sleep(0.1)
        assert len(study["trials"]) == 12
        for trial in study["trials"]:
            assert "…your text…" in trial["note"]["body"]
        assert "Baselines are rows" in study["note"]["body"]
        assert study["objective_names"] == ["accuracy"]
    finally:
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=20)
    assert f"http://127.0.0.1:{port}/" in errors
    assert "GET /" not in errors  # an open page asks every few seconds
    assert "Traceback" not in errors
    assert process.returncode == 0


def test_refresh_writes_once_and_respects_a_persons_note(tmp_path):
    built = build(tmp_path, trials=12)
    storage = built.optuna_study._storage
    assert app.Notes(built.store, storage).refresh() == 13
    assert app.Notes(built.store, storage).refresh() == 0
    (first, *_) = built.optuna_study.get_trials(deepcopy=False)
    attributes = app._Attributes(built.optuna_study)
    target = app._NotedTrial(built.optuna_study, first._trial_id, attributes)
    optuna_dashboard.save_note(target, "mine")
    optuna_dashboard.save_note(built.optuna_study, "")
    assert app.Notes(built.store, storage).refresh() == 1
    seen = app._NotedTrial(built.optuna_study, first._trial_id, app._Attributes(built.optuna_study))
    assert optuna_dashboard.get_note(seen) == "mine"
    built.store.close()


def test_a_note_follows_its_trial(tmp_path):
    built = build(tmp_path, trials=12)
    notes = app.Notes(built.store, built.optuna_study._storage)
    notes.refresh()
    trial = max(one.id for one in _trials(built) if not one.baseline)
    built.store.record_block(
        trial, stage="search", block=99, seed=9, fold=0, metrics={"accuracy": 0.123}
    )
    # That trial's note; the study's shows only the top.
    assert notes.refresh() in (1, 2)
    built.store.close()


def test_the_missing_extra_is_named_with_the_command_that_brings_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna_dashboard", None)
    with pytest.raises(
        app.DashboardError, match=r"pip install 'autoprompt\[dashboard\]'"
    ) as caught:
        app.serve(f"sqlite:///{tmp_path / 'study.db'}")
    assert caught.value.exit_code == 2


def test_a_port_in_use_is_named(tmp_path):
    with Store.open(f"sqlite:///{tmp_path / 'study.db'}") as store:
        create(store)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(app.DashboardError, match=f"port: 127.0.0.1:{port} cannot be opened"):
            app.serve(f"sqlite:///{tmp_path / 'study.db'}", port=port)
    with pytest.raises(app.DashboardError, match="port: 70000"):
        app.serve(f"sqlite:///{tmp_path / 'study.db'}", port=70000)


def _trials(built):
    from storage import queries

    return queries.trials(built.store, built.study.id)
