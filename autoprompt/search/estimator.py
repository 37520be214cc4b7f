"""PromptSearch: the search as a scikit-learn estimator. Same run folder, same stages as the CLI."""

from __future__ import annotations

import operator
import os
import shutil
import tempfile
import threading
import uuid
import weakref
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.exceptions import NotFittedError
from sklearn.utils.validation import check_is_fitted

from autoprompt.config import ConfigError, read_overrides
from autoprompt.data.readers import Columns, Table, read
from autoprompt.search.clock import Clock
from autoprompt.search.folder import RunError
from autoprompt.search.in_memory import Texts, examples, file_named, labels, table, unlabeled
from autoprompt.search.settings import Options
from autoprompt.search.stop import Stopped
from storage.store import safe_url

if TYPE_CHECKING:
    from autoprompt.learners.bundle import Predictor
    from autoprompt.report.leaderboard import Row
    from autoprompt.search.opened import OpenRun


class PromptSearch(ClassifierMixin, BaseEstimator):
    """Finds the best prompt configuration for labelled texts.

    Constructor parameters are the long options of `autoprompt search`; `settings` takes the
    `key=value` settings as a list of strings or a nested mapping. With `out=None` each `fit` has a
    fresh temporary run; with `out` given, the same data continues that run and other data raises
    RunError.

    X is a sequence of texts, or of pairs of texts, or a table with one column of texts; y the label
    names. `fit` also takes a file name (or `hf:` name) as X with y left out. `unlabeled` is a file
    name or a sequence like X; `words` may also be a mapping from labels to words.

    Attributes after `fit`: `classes_` (label names in order), `best_` (the winning row),
    `run_` (the run's folder). Threads may share a fitted search for predictions. It can be pickled:
    with `out` it finds its run there again, of a temporary run the bundle goes along.
    """

    classes_: np.ndarray
    best_: Row | None
    _kept: KeptRun
    _columns: np.ndarray  # of the bundle's probabilities, in the order of `classes_`

    def __init__(
        self,
        *,
        out: str | Path | None = None,
        model: str | None = None,
        preset: str | Sequence[str] | None = None,
        template: str | Sequence[str] | None = None,
        words: str | Sequence[str] | Mapping[str, Any] | None = None,
        shots: int | None = None,
        unlabeled: str | Path | Texts | None = None,
        pool: str | Path | None = None,
        trials: int | None = None,
        minutes: float | None = None,
        seed: int | None = None,
        storage: str | None = None,
        study: str | None = None,
        device: str | None = None,
        text: str | None = None,
        text_b: str | None = None,
        label: str | None = None,
        config: str | None = None,
        settings: Sequence[str] | Mapping[str, Any] | None = None,
    ) -> None:
        self.out = out
        self.model = model
        self.preset = preset
        self.template = template
        self.words = words
        self.shots = shots
        self.unlabeled = unlabeled
        self.pool = pool
        self.trials = trials
        self.minutes = minutes
        self.seed = seed
        self.storage = storage
        self.study = study
        self.device = device
        self.text = text
        self.text_b = text_b
        self.label = label
        self.config = config
        self.settings = settings

    def fit(self, X: Texts | str | Path, y: Sequence[Any] | None = None) -> PromptSearch:
        """Search on X, y. Raises DataError, RunError and the other module errors, after which the
        estimator is what it was before, fitted or not."""
        from autoprompt.report.leaderboard import winner
        from autoprompt.search.opened import leaderboard, open_run

        data: str | Table | None = file_named(X, y)
        names: dict[str, Any] = {}
        if data is None:
            given = labels(y)
            data = table(X, given)
            names = {str(label): label for label in given}
        kept = KeptRun(self.out)
        try:
            found = _search(data, self._options(kept.path))
            with open_run(kept.path) as run:
                best = winner(leaderboard(run))
            classes = np.array([names.get(label, label) for label in found])
            columns = np.argsort(classes, kind="stable")  # ours are sorted as texts: 10 before 9
        except BaseException:
            kept.forget()
            raise
        fitted = {"_kept": kept, "_columns": columns, "classes_": classes[columns], "best_": best}
        self.__dict__.update(fitted)  # together: nobody meets half an estimator
        return self

    def _options(self, out: Path) -> Options:
        settings = self.settings or {}
        if not isinstance(settings, Mapping):
            settings = read_overrides(settings)
        return Options(
            out=out,
            model=None if self.model is None else str(self.model),
            presets=_several(self.preset),
            templates=_several(self.template),
            words=_words(self.words),
            shots=_whole("shots", self.shots),
            unlabeled=unlabeled(self.unlabeled),
            pool=None if self.pool is None else Path(self.pool),
            trials=_whole("trials", self.trials),
            minutes=self.minutes,
            seed=_whole("seed", self.seed),
            storage=self.storage,
            study=self._study_name,
            device=self.device,
            columns=Columns(self.text, self.text_b, self.label),
            config_file=self.config,
            settings=settings,
        )

    def predict(self, X: Texts) -> np.ndarray:
        """Labels [N] of texts, as `y` had them."""
        best = np.argmax(self.predict_proba(X), axis=1)
        return self.classes_[best]

    def predict_proba(self, X: Texts) -> np.ndarray:
        """Probabilities [N, C], columns as `classes_`."""
        check_is_fitted(self, "classes_")
        predictor = self._kept.predictor(self.device or "auto")
        return predictor.probabilities(examples(X))[:, self._columns]

    def leaderboard(self) -> list[dict[str, Any]]:
        """All trials and baselines, ranked: the rows of `autoprompt leaderboard --json`."""
        from autoprompt.search.opened import leaderboard

        check_is_fitted(self, "classes_")
        with self._kept.opened() as run:
            return [row.to_dict() for row in leaderboard(run)]

    def test(
        self, X: Texts | str | Path, y: Sequence[Any] | None = None, *, again: bool = False
    ) -> dict[str, Any]:
        """Open test data once: winner and baselines. Raises RunError for a second time."""
        from autoprompt.search import exam
        from autoprompt.search.opened import examine

        check_is_fitted(self, "classes_")
        with self._kept.opened() as run, run.folder.locked():
            exam.refuse_second(run.store, run.study, run.folder, again)
            file = file_named(X, y)
            columns = run.columns
            if run.task.kind == "single":  # a second text is no part of it
                columns = replace(columns, text_b="")
            found = table(X, y) if file is None else read(file, columns)
            run.task.label_ids(found.examples)
            return examine(run, found)

    def export(self, bundle: str | Path, trial: int | None = None, *, peft: bool = False) -> Path:
        """Write the winner (or another trial) as a folder for `autoprompt.load`; with `peft` its
        learned prompt as an adapter of PEFT too."""
        from autoprompt.search.opened import export

        check_is_fitted(self, "classes_")
        with self._kept.opened() as run:
            export(run, Path(bundle), trial, peft=peft)
        return Path(bundle)

    @property
    def study(self) -> Any:
        """After `fit` the Optuna study; before it the name given to the constructor.

        The option and the attribute share their name; `get_params` always gives the option.
        """
        if not hasattr(self, "_kept"):
            return self._study_name
        import optuna

        with self._kept.opened() as run:
            try:
                return optuna.load_study(study_name=run.study.name, storage=run.url)
            except KeyError:
                raise NotFittedError(
                    f"RUN {self.run_}: its sampler's study is not in the database; fit it again"
                ) from None

    @study.setter
    def study(self, name: str | None) -> None:
        self._study_name = name

    @property
    def storage(self) -> str | None:
        """The constructor's URL, password and all; `repr` hides that."""
        return self._storage

    @storage.setter
    def storage(self, url: str | None) -> None:
        # `clone` wants the very object back that it gave
        plain = isinstance(url, str) and not isinstance(url, _Address)
        self._storage = _Address(url) if plain else url

    @property
    def run_(self) -> Path:
        """The run's folder; of a temporary run that was pickled, one with its bundle alone."""
        if not hasattr(self, "_kept"):
            raise AttributeError("run_: there is none before fit")
        return self._kept.path

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """The constructor's parameters."""
        names = [name for name in self._get_param_names() if name != "study"]
        return {name: getattr(self, name) for name in names} | {"study": self._study_name}


class KeptRun:
    """The run of a fitted estimator: RUN at `path`, or a temporary one, which ends as this object.

    Pickled, a temporary run is its bundle alone, for predictions: a model that is handed on should
    not take the labelled texts along.
    """

    def __init__(self, path: str | Path | None) -> None:
        self._turn = threading.RLock()
        self._forget: Any = None  # of a temporary run
        self._files: dict[str, bytes] | None = None  # of a bundle that is not on the disk yet
        self._whole = True
        self._predictor: Predictor | None = None
        self._path = self._fresh() if path is None else Path(path)

    def _fresh(self) -> Path:
        """Its name is that of a study too, and databases are shared: there is no other like it."""
        folder = tempfile.mkdtemp(prefix="autoprompt-")
        self._forget = weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        return Path(folder) / f"run-{uuid.uuid4().hex}"

    @property
    def path(self) -> Path:
        with self._turn:
            if self._files is not None:
                fresh = self._fresh()
                try:
                    fresh.mkdir(0o700)
                    _write_privately(fresh / "bundle", self._files)
                except BaseException:
                    self.forget()
                    raise
                self._path, self._files = fresh, None
            return self._path

    def forget(self) -> None:
        """Remove a temporary run now; one that has a name stays, as it can be continued."""
        if self._forget is not None:
            self._forget()

    def predictor(self, device: str) -> Predictor:
        """The loaded bundle, the same one for every thread."""
        from autoprompt.learners.bundle import load_bundle

        with self._turn:
            if self._predictor is None:
                self._predictor = load_bundle(self.path / "bundle", device)
            return self._predictor

    def opened(self) -> AbstractContextManager[OpenRun]:
        """The run, to be read. Raises RunError where only its bundle has come along."""
        from autoprompt.search.opened import open_run

        if not self._whole:
            raise RunError(
                "out: of a temporary run the bundle alone is pickled, which predicts; fit with "
                "out=FOLDER to keep leaderboard, study, test and export"
            )
        return open_run(self.path)

    def __getstate__(self) -> dict[str, Any]:
        with self._turn:
            files = self._files
            if files is None and self._forget is not None:
                files = _read_all(self._path / "bundle")
            return {"path": self._path.absolute(), "files": files}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["path"])  # type: ignore[misc]
        self._files, self._whole = state["files"], state["files"] is None

    def __deepcopy__(self, memo: dict[int, Any]) -> KeptRun:
        return self  # nobody changes it, and it lasts as long as its last user


def _several(value: str | Sequence[str] | None) -> tuple[str, ...]:
    if value is None:
        return ()
    return (value,) if isinstance(value, str) else tuple(value)


def _words(value: str | Sequence[str] | Mapping[str, Any] | None) -> tuple[str, ...]:
    """Options as `--words` takes them; of a mapping, a word or several for each label."""
    if not isinstance(value, Mapping):
        return _several(value)
    return tuple(
        f"{label}={words if isinstance(words, str) else ','.join(words)}"
        for label, words in value.items()
    )


def _whole(name: str, value: Any) -> int | None:
    """A number of the constructor, which may be one of NumPy's, as int."""
    try:
        return None if value is None else operator.index(value)
    except TypeError:
        raise ConfigError(f"{name}: {value!r} is no whole number; give one such as 16") from None


def _read_all(folder: Path) -> dict[str, bytes]:
    """The files below `folder` by their names in it."""
    files = (file for file in sorted(folder.rglob("*")) if file.is_file())
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in files}


def _write_privately(folder: Path, files: Mapping[str, bytes]) -> None:
    """Put them back so that the owner alone may read them: a bundle can hold labelled texts."""
    for name, content in files.items():
        for above in reversed(Path(name).parents):
            (folder / above).mkdir(0o700, exist_ok=True)
        descriptor = os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as opened:
            opened.write(content)


def _search(data: str | Table, options: Options) -> tuple[str, ...]:
    """The labels of a search that has ended. In Python, what stops it has names of its own."""
    from autoprompt.search import job

    try:
        return job.search(data, options, job.Listener(), Clock(None)).labels
    except Stopped as stopped:
        if stopped.exit_code == 130:
            raise KeyboardInterrupt from None
        raise SystemExit(stopped.exit_code) from None


class _Address(str):
    """A database's URL whose password no `repr` shows, nor that of what holds it: scikit-learn
    prints the parameters of nested estimators without asking these."""

    def __repr__(self) -> str:
        return repr(safe_url(str(self)))
