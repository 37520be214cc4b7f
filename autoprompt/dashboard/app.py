"""Serves optuna-dashboard on the study's own database and keeps its notes fresh.
Has no page of its own and no authentication: loopback unless told otherwise."""

from __future__ import annotations

import ipaddress
import logging
import socket
import threading
import warnings
from collections.abc import Callable
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from autoprompt.dashboard import views
from autoprompt.report import leaderboard
from storage import queries
from storage.store import Store, safe_url

log = logging.getLogger(__name__)

#: Seconds between two looks for trials that ended while the dashboard is open.
REFRESH = 5.0


class DashboardError(RuntimeError):
    """The dashboard cannot start as asked."""

    exit_code = 2


def serve(
    url: str,
    *,
    host: str = "127.0.0.1",
    port: int = 8080,
    ready: Callable[[str], None] = lambda _address: None,
) -> None:
    """Serve the database at `url` until interrupted; `ready` gets the address once it answers.

    Raises DashboardError when the extra is missing or the address cannot be had, and the Store's
    own errors when there is no study at `url`.
    """
    try:
        import optuna_dashboard
    except ImportError as error:
        raise DashboardError(
            "dashboard: optuna-dashboard is not installed; run pip install 'autoprompt[dashboard]'"
        ) from error
    with Store.open(url, create=False) as store:
        storage = _optuna_storage(url)
        with _server(optuna_dashboard.wsgi(storage), host, port) as server:
            notes = Notes(store, storage)
            done = threading.Event()
            keeper = threading.Thread(
                target=_keep_fresh, args=(notes, done), name="dashboard-notes", daemon=True
            )
            keeper.start()
            log.info("dashboard of %s at http://%s:%d/", safe_url(url), host, port)
            ready(f"http://{host}:{server.server_port}/")
            if not _is_loopback(host):
                log.warning(
                    "host: %s can be reached from other machines and the dashboard asks for no"
                    " password; anyone there can delete studies",
                    host,
                )
            try:
                server.serve_forever()
            except KeyboardInterrupt:
                pass  # the way to end it
            finally:
                done.set()
                keeper.join(timeout=2 * REFRESH)


class Notes:
    """The notes of all studies in a database; `refresh` writes those that changed."""

    def __init__(self, store: Store, storage: Any) -> None:
        self._store = store
        self._storage = storage
        self._written: dict[tuple[str, int | None], str] = {}

    def refresh(self) -> int:
        """Write new and changed notes, leaving alone what a person edited; how many were written.

        Optuna keeps notes as attributes of the study, so a finished trial can have one too.
        """
        import optuna

        count = 0
        known = set(optuna.get_all_study_names(storage=self._storage))
        for record in queries.studies(self._store):
            if record.name not in known:
                continue
            study = optuna.load_study(study_name=record.name, storage=self._storage)
            rows = leaderboard.rows(self._store, record)
            if study.metric_names is None:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
                    study.set_metric_names([record.metric])
            count += self._write(record.name, None, study, views.study_note(rows))
            by_trial = {one.trial: one for one in rows}
            trials = {
                one.optuna_number: by_trial[one.id]
                for one in queries.trials(self._store, record.id)
                if one.optuna_number is not None
            }
            attributes = _Attributes(study)
            for frozen in study.get_trials(deepcopy=False):
                row = trials.get(frozen.number)
                if row is None:
                    continue
                target = _NotedTrial(study, frozen._trial_id, attributes)
                count += self._write(record.name, frozen.number, target, views.note(row))
        return count

    def _write(self, study: str, number: int | None, target: Any, text: str) -> int:
        import optuna_dashboard

        if self._written.get((study, number)) == text:
            return 0
        found = optuna_dashboard.get_note(target)
        changed = found != text and (not found or views.is_ours(found))
        if changed:
            optuna_dashboard.save_note(target, text)
        self._written[study, number] = text
        return int(changed)


class _NotedTrial:
    """What optuna-dashboard reads of a trial to find its note. An `optuna.Trial` would ask the
    sampler for a search space, once for every trial of the study."""

    def __init__(self, study: Any, trial_id: int, attributes: _Attributes) -> None:
        self.study = study
        self.storage = attributes
        self._trial_id = trial_id


class _Attributes:
    """A study's attributes, read once and written through. Each note otherwise reads all notes:
    twenty seconds for 500 trials."""

    def __init__(self, study: Any) -> None:
        self._storage = study._storage
        self._found = self._storage.get_study_system_attrs(study._study_id)

    def get_study_system_attrs(self, study_id: int) -> dict[str, Any]:
        return self._found

    def set_study_system_attr(self, study_id: int, key: str, value: Any) -> None:
        self._storage.set_study_system_attr(study_id, key, value)
        self._found[key] = value


def _keep_fresh(notes: Notes, done: threading.Event) -> None:
    wait = 0.0
    while not done.wait(wait):
        wait = REFRESH
        try:
            notes.refresh()
        except Exception:  # a locked database must not end the dashboard; the next look may work
            log.warning("dashboard notes could not be refreshed", exc_info=True)


def _optuna_storage(url: str) -> Any:
    import optuna

    # A reader that waits: without it one busy moment of a search would fail the page.
    timeout = {"connect_args": {"timeout": 10}} if url.startswith("sqlite") else {}
    return optuna.storages.RDBStorage(url, engine_kwargs=timeout)


class _Server(ThreadingMixIn, WSGIServer):
    """A thread a request: one slow query of a large study must not stop the page."""

    daemon_threads = True


class _Handler(WSGIRequestHandler):
    """Requests go to the logger; an open page asks every few seconds."""

    def log_message(self, format: str, *args: Any) -> None:
        log.debug(format, *args)


def _server(application: Any, host: str, port: int) -> WSGIServer:
    if not 0 < port < 65536:
        raise DashboardError(f"port: {port} is not between 1 and 65535; choose another --port")
    try:
        return make_server(host, port, application, _Server, _Handler)
    except socket.gaierror as error:
        raise DashboardError(f"host: {host!r} is unknown here; use 127.0.0.1") from error
    except OSError as error:
        raise DashboardError(
            f"port: {host}:{port} cannot be opened ({error.strerror}); choose another --port"
        ) from error


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
