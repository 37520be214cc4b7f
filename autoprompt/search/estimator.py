"""PromptSearch: the search as a scikit-learn estimator. Same run folder, same stages as the CLI."""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.exceptions import NotFittedError
from sklearn.utils.validation import check_is_fitted

from autoprompt.config import read_overrides
from autoprompt.data.readers import Columns, Table, read
from autoprompt.data.task import DataError, Example, digest, single_texts
from autoprompt.search.clock import Clock
from autoprompt.search.settings import Options
from autoprompt.search.stop import Stopped

Texts = Sequence[str] | Sequence[tuple[str, str]]


class PromptSearch(ClassifierMixin, BaseEstimator):
    """Finds the best prompt configuration for labelled texts.

    Constructor parameters are the long options of `autoprompt search`; `settings` takes the
    `key=value` settings as a list of strings or a nested mapping. With `out=None` each `fit` has a
    fresh temporary run; with `out` given, the same data continues that run and other data raises
    RunError.

    X is a sequence of texts, or of pairs of texts; y the label names. `fit` also takes a file name
    (or `hf:` name) as X with y left out. `unlabeled` is a file name or a sequence like X; `words`
    may also be a mapping from labels to words.

    Attributes after `fit`: `classes_` (label names in order), `best_` (the winning row),
    `run_` (the run's folder).
    """

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

    def fit(self, X: Texts | str, y: Sequence[Any] | None = None) -> PromptSearch:
        """Search on X, y. Raises DataError, RunError and the other module errors."""
        from autoprompt.search import job

        data: str | Table
        if isinstance(X, str):
            data = X
        else:
            if y is None:
                raise DataError("y: missing; give one label per text, or a file name as X")
            data = table(X, y)
            names = {str(label): label for label in y}
        if self.out is None:
            self.run_ = self._fresh_run()
        else:
            self.run_ = Path(self.out)
        clock = Clock(None)
        try:
            record = job.search(data, self._options(), job.Listener(), clock)
        except Stopped as stopped:  # in Python these have names of their own
            if stopped.exit_code == 130:
                raise KeyboardInterrupt from None
            raise SystemExit(stopped.exit_code) from None
        self._bundle: Any = None
        original = {} if isinstance(X, str) else names
        classes = np.array([original.get(label, label) for label in record.labels])
        self._columns = np.argsort(classes, kind="stable")  # ours are sorted as texts: 10 before 9
        self.classes_ = classes[self._columns]
        self.best_ = next((row for row in self._rows() if row.trial == self._winner()), None)
        return self

    def _fresh_run(self) -> Path:
        """A temporary run that lives as long as this object, or until the next `fit`."""
        forget: Any = getattr(self, "_forget", None)
        if forget is not None:
            forget()
        folder = tempfile.mkdtemp(prefix="autoprompt-")
        self._forget: Any = weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        return Path(folder) / "run"

    def _options(self) -> Options:
        settings = self.settings or {}
        if not isinstance(settings, Mapping):
            settings = read_overrides(settings)
        return Options(
            out=self.run_,
            model=None if self.model is None else str(self.model),
            presets=_several(self.preset),
            templates=_several(self.template),
            words=_words(self.words),
            shots=self.shots,
            unlabeled=_unlabeled(self.unlabeled),
            pool=None if self.pool is None else Path(self.pool),
            trials=self.trials,
            minutes=self.minutes,
            seed=self.seed,
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
        if self._bundle is None:
            from autoprompt.learners.bundle import load_bundle

            self._bundle = load_bundle(self.run_ / "bundle", self.device or "auto")
        found = np.asarray(self._bundle.probabilities([_example(text) for text in X]))
        return found[:, self._columns]

    def leaderboard(self) -> list[dict[str, Any]]:
        """All trials and baselines, ranked: the rows of `autoprompt leaderboard --json`."""
        return [row.to_dict() for row in self._rows()]

    def test(
        self, X: Texts | str, y: Sequence[Any] | None = None, *, again: bool = False
    ) -> dict[str, Any]:
        """Open test data once: winner and baselines. Raises RunError for a second time."""
        from autoprompt.search import exam
        from autoprompt.search.opened import examine, open_run

        check_is_fitted(self, "classes_")
        with open_run(self.run_) as run, run.folder.locked():
            exam.refuse_second(run.store, run.study, run.folder, again)
            if isinstance(X, str):
                found = read(X, run.columns)
                if run.task.kind == "single":  # a second text is no part of the task
                    found = replace(found, examples=single_texts(found.examples))
            elif y is None:
                raise DataError("y: missing; give one label per text, or a file name as X")
            else:
                found = table(X, y)
            run.task.label_ids(found.examples)
            return examine(run, found)

    def export(self, bundle: str | Path, trial: int | None = None, *, peft: bool = False) -> Path:
        """Write the winner (or another trial) as a folder for `autoprompt.load`; with `peft` its
        learned prompt as an adapter of PEFT too."""
        from autoprompt.search.opened import export, open_run

        check_is_fitted(self, "classes_")
        with open_run(self.run_) as run:
            export(run, Path(bundle), trial, peft=peft)
        return Path(bundle)

    @property
    def study(self) -> Any:
        """After `fit` the Optuna study; before it the name given to the constructor.

        The option and the attribute share their name; `get_params` always gives the option.
        """
        if not hasattr(self, "run_"):
            return self._study_name
        import optuna

        from autoprompt.search.opened import open_run

        with open_run(self.run_) as run:
            try:
                return optuna.load_study(study_name=run.study.name, storage=run.url)
            except KeyError:
                raise NotFittedError(
                    f"RUN {self.run_}: its search was stopped before the first trial; fit it again"
                ) from None

    @study.setter
    def study(self, name: str | None) -> None:
        self._study_name = name

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """The constructor's parameters."""
        names = [name for name in self._get_param_names() if name != "study"]
        return {name: getattr(self, name) for name in names} | {"study": self._study_name}

    def _rows(self) -> list[Any]:
        from autoprompt.search.opened import leaderboard, open_run

        check_is_fitted(self, "classes_")
        with open_run(self.run_) as run:
            return leaderboard(run)

    def _winner(self) -> int | None:
        from autoprompt.report.leaderboard import winner

        best = winner(self._rows())
        return best.trial if best else None


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


def _unlabeled(value: str | Path | Texts | None) -> str | Table | None:
    """A file's name, or texts as a reader would give them."""
    if value is None or isinstance(value, (str, Path)):
        return None if value is None else str(value)
    found = tuple(_example(text, None, line) for line, text in enumerate(value, start=1))
    if not found:
        raise DataError("unlabeled: no text at all; give texts, or leave it out")
    for line, example in enumerate(found, start=1):
        if not example.text.strip():
            raise DataError(f"unlabeled: row {line} is empty; leave it out")
    return Table("unlabeled", Columns("text", None, None), found, digest(found))


def _example(text: Any, label: Any = None, line: int | None = None) -> Example:
    """An example from a text or a pair of texts. Raises DataError for anything else."""
    name = None if label is None else str(label)
    if isinstance(text, str):
        return Example(text, None, name, line)
    if isinstance(text, (tuple, list, np.ndarray)) and len(text) == 2:
        first, second = text
        if isinstance(first, str) and isinstance(second, str):
            return Example(str(first), str(second), name, line)
    raise DataError(f"X: {text!r} is neither a text nor a pair of texts; give str or (str, str)")


def table(X: Texts, y: Sequence[Any]) -> Table:
    """Texts and labels as the readers would give them. Raises DataError on unequal lengths."""
    texts, labels = list(X), list(y)
    if len(texts) != len(labels):
        raise DataError(f"y: {len(labels)} labels for {len(texts)} texts; give one per text")
    examples = []
    for line, (text, label) in enumerate(zip(texts, labels), start=1):
        example = _example(text, label, line)
        second = example.text_b
        empty = not example.text.strip() or (second is not None and not second.strip())
        if empty or not (example.label or "").strip():
            raise DataError(f"row {line}: empty text or label; leave the row out")
        examples.append(example)
    return Table("in memory", Columns("text", None, "label"), tuple(examples), digest(examples))
