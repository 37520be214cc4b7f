"""A fitted learner as a folder: written, proved in a clean process, loaded. Trains nothing.

`prompt.toml` says what it is, safetensors and JSON hold what was learned, `metrics.json` and
`provenance.json` how good it is and where it comes from, `README.md` tells people. Run as a module
(`python -m autoprompt.learners.bundle FOLDER DEVICE`) it answers rows given as JSON on the input:
so a bundle proves itself before it gets its name.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy

from autoprompt.data.task import Example, Task
from autoprompt.learners import card
from autoprompt.learners.base import Learner
from autoprompt.learners.build import (
    CandidateError,
    build,
    compares,
    needs_encoder,
    needs_model,
)
from autoprompt.learners.described import candidate_of, describe, learned_of
from autoprompt.learners.whole_folder import writing_folder
from autoprompt.learners.workshop import Workshop
from autoprompt.models.backbone import ModelError
from autoprompt.models.builtin import file_digest
from autoprompt.models.checkpoint import BUILTIN, folder_of
from search_spaces.candidate import Candidate

SCHEMA = 1
PROMPT, METRICS, PROVENANCE, CARD = "prompt.toml", "metrics.json", "provenance.json", "README.md"
PROOF_ROWS = 8
TOLERANCE = 1e-4  # of a probability, between this process and a clean one
PROOF_SECONDS = 600
CHUNK = 4096  # rows scored at once


class BundleError(ValueError):
    """A folder that is no bundle of this version, or one that does not answer as it was saved."""

    exit_code = 2


class Predictor:
    """A loaded bundle: texts, or pairs of texts, to label names. Threads may share it."""

    def __init__(self, task: Task, learner: Learner) -> None:
        self.kind = task.kind
        self.labels = task.labels
        self._learner = learner
        self._turn = threading.Lock()

    def __reduce__(self) -> NoReturn:
        """Not by a folder's name either: a file that holds no model should not look like one."""
        raise TypeError(
            "Predictor: a loaded bundle cannot be pickled or copied; keep its folder, and call "
            "load(FOLDER) where it is needed"
        )

    def predict(self, texts: Sequence[Any]) -> list[str]:
        """The most probable label of each text, `(text, text_b)` pair or Example."""
        best = self.scores(texts).argmax(axis=1)
        return [self.labels[place] for place in best.tolist()]

    def predict_proba(self, texts: Sequence[Any]) -> list[dict[str, float]]:
        """Every label's probability, for each text, `(text, text_b)` pair or Example."""
        rows = self.probabilities(texts).tolist()
        return [dict(zip(self.labels, row, strict=True)) for row in rows]

    def probabilities(self, texts: Sequence[Any]) -> numpy.ndarray:
        """Probabilities [N, C], columns in the order of `labels`."""
        return numpy.exp(self.scores(texts))

    def scores(self, texts: Sequence[Any]) -> numpy.ndarray:
        """Log-probabilities [N, C], columns in the order of `labels`."""
        examples = self._examples(texts)
        parts = []
        for start in range(0, len(examples), CHUNK):
            with self._turn:  # a model that reads is changed meanwhile, its attentions for one
                parts.append(self._learner.scores(examples[start : start + CHUNK]))
        found = numpy.concatenate(parts) if parts else numpy.zeros((0, len(self.labels)))
        if numpy.isnan(found).any():
            raise BundleError("bundle: it gives probabilities that are no numbers; export it again")
        return found

    def _examples(self, texts: Sequence[Any]) -> list[Example]:
        if isinstance(texts, str):
            raise BundleError("predict: one text given where a list is wanted; write [text]")
        found = []
        for number, item in enumerate(texts, start=1):
            if isinstance(item, str):
                item = Example(item)
            elif not isinstance(item, Example):
                two = isinstance(item, (tuple, list, numpy.ndarray)) and len(item) == 2
                if not (two and all(isinstance(part, str) for part in item)):
                    raise BundleError(
                        f"predict: row {number} ({item!r}) is neither a text nor a pair of texts; "
                        "give str or (str, str)"
                    )
                item = Example(*item)
            if not all(part is None or part.strip() for part in (item.text, item.text_b)):
                raise BundleError(f"predict: row {number} is empty; leave it out")
            if (item.text_b is not None) != (self.kind == "pair"):
                wanted = "a pair (text, text_b)" if self.kind == "pair" else "a single text"
                raise BundleError(f"predict: row {number} is not {wanted}; give only such rows")
            found.append(item)
        return found


def save_bundle(
    learner: Learner,
    candidate: Candidate,
    task: Task,
    directory: Path,
    *,
    metrics: Mapping[str, Any],
    provenance: Mapping[str, Any],
    workshop: Workshop,
) -> None:
    """Write a fitted learner to `directory`, which must not exist.

    It is written beside it under a temporary name, answers up to 8 of the workshop's rows in a
    clean process, and is renamed only when these answers equal ours. `BundleError` otherwise;
    OSError (disk full, read-only) passes through.
    """
    directory = Path(directory)
    if directory.exists():
        raise BundleError(f"bundle: {directory} exists already; choose another name or remove it")
    with writing_folder(directory) as partial:
        described = _describe(learner, candidate, task, partial, workshop)
        _write_toml(partial / PROMPT, described)
        _write_json(partial / METRICS, metrics)
        _write_json(partial / PROVENANCE, provenance)
        text = card.render_card(described, metrics, provenance)
        (partial / CARD).write_text(text, encoding="utf-8")
        _prove(learner, partial, workshop)


def load_bundle(directory: str | Path, device: str = "auto") -> Predictor:
    """Load a bundle; `BundleError` where it is damaged, newer, or of another model revision."""
    directory = Path(directory)
    described = read_prompt(directory)
    _check_files(directory, described)
    try:
        task = Task(described["task"]["kind"], tuple(described["task"]["labels"]))
        candidate = candidate_of(described)
        model = described.get("model", {})
        workshop = Workshop(
            task,
            str(model.get("name", "builtin")),
            device,
            str(model.get("precision", "fp32")),
            revision=model.get("revision") if needs_model(candidate) else None,
        )
        learner = build(candidate, task, workshop)
        _check_model(directory, described, candidate, workshop)
        learner.load(directory, learned_of(described))
    except (KeyError, TypeError, CandidateError) as error:
        raise BundleError(
            f"bundle: {directory / PROMPT} is incomplete ({error}); export it again"
        ) from error
    except ModelError as error:
        raise BundleError(f"bundle: {directory}: {error}") from error
    return Predictor(task, learner)


def write_metrics(directory: Path, metrics: Mapping[str, Any]) -> None:
    """Replace a bundle's figures, in `metrics.json` and on its card."""
    described = read_prompt(directory)
    provenance = json.loads((directory / PROVENANCE).read_text(encoding="utf-8"))
    text = card.render_card(described, metrics, provenance)
    for name, content in ((METRICS, _json(metrics)), (CARD, text)):
        fresh = directory / f".{name}.new"
        fresh.write_text(content, encoding="utf-8")
        fresh.replace(directory / name)


def is_whole(directory: Path) -> bool:
    """Whether the folder is a bundle whose files are as they were saved."""
    try:
        _check_files(directory, read_prompt(directory))
    except BundleError:
        return False
    return True


def bundle_columns(directory: Path) -> dict[str, str]:
    """The columns its search read (`text`, `text_b`), {} where it does not say."""
    try:
        provenance = json.loads((Path(directory) / PROVENANCE).read_text(encoding="utf-8"))
        return dict(provenance.get("columns") or {})
    except (OSError, ValueError, AttributeError, TypeError):
        return {}


def read_prompt(directory: Path) -> dict[str, Any]:
    """What `prompt.toml` says; `BundleError` where there is none of this schema."""
    path = directory / PROMPT
    try:
        described = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise BundleError(
            f"bundle: {directory} has no {PROMPT}; give a folder written by autoprompt export"
        ) from error
    except NotADirectoryError as error:
        raise BundleError(
            f"bundle: {directory} is a file; give the folder that autoprompt export wrote, "
            "then DATA"
        ) from error
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise BundleError(f"bundle: {path} is damaged ({error}); export it again") from error
    if "schema" not in described:
        raise BundleError(f"bundle: {path} is damaged (no schema); export it again")
    if described["schema"] != SCHEMA:
        raise BundleError(
            f"bundle: {path} has schema {described['schema']!r}, this version reads {SCHEMA}; "
            "use the autoprompt version that wrote it"
        )
    return described


def _describe(
    learner: Learner, candidate: Candidate, task: Task, directory: Path, workshop: Workshop
) -> dict[str, Any]:
    described: dict[str, Any] = {
        "schema": SCHEMA,
        "task": {"kind": task.kind, "labels": list(task.labels)},
        **describe(candidate, learner.save(directory)),
    }
    if needs_model(candidate):
        backbone, folder = workshop.backbone, folder_of(workshop.model)
        described["model"] = {
            "name": (
                str(folder.resolve())
                if workshop.model != BUILTIN and folder.is_dir()
                else workshop.model
            ),
            "revision": backbone.revision,
            "precision": "fp32",  # of answers, whatever it was trained in
            "max_length": backbone.max_length,
        }
    elif needs_encoder(candidate):
        described["model"] = _encoder()
    if compares(candidate):
        described["encoder"] = _encoder()
    described["files"] = {
        p.relative_to(directory).as_posix(): file_digest(p)
        for p in sorted(directory.rglob("*"))
        if p.is_file()
    }
    return described


def _encoder() -> dict[str, str]:
    from autoprompt.models.builtin import PACKAGE
    from autoprompt.models.sentence import package_revision

    return {"name": PACKAGE, "revision": package_revision()}


def _check_files(directory: Path, described: Mapping[str, Any]) -> None:
    for name, expected in described.get("files", {}).items():
        path = directory / name
        inside = not Path(name).is_absolute() and ".." not in Path(name).parts
        if not inside or not path.is_file():
            raise BundleError(f"bundle: {path} is missing; export the bundle again")
        if file_digest(path) != expected:
            raise BundleError(
                f"bundle: {path} is not the file that was saved (sha256 differs); "
                "copy or export the bundle again"
            )


def _check_model(
    directory: Path, described: Mapping[str, Any], candidate: Candidate, workshop: Workshop
) -> None:
    found: dict[str, Mapping[str, str | int]] = {}
    if needs_model(candidate):
        backbone = workshop.backbone
        found["model"] = {"revision": backbone.revision, "max_length": backbone.max_length}
    elif needs_encoder(candidate):
        found["model"] = _encoder()
    if compares(candidate):
        found["encoder"] = _encoder()
    for kind, values in found.items():
        made = described[kind]
        for name, value in values.items():
            if made[name] != value:
                raise BundleError(
                    f"bundle: {directory} was made with {name} {made[name]!r} of {kind} "
                    f"{made['name']!r}, but {value!r} is here; install or give that one"
                )


def _prove(learner: Learner, directory: Path, workshop: Workshop) -> None:
    """Let a clean process load the folder and answer some of the labelled rows as we do."""
    step = max(1, len(workshop.labelled) // PROOF_ROWS)
    rows = workshop.labelled[::step][:PROOF_ROWS]
    if not rows:
        rows = (Example("a text", "another" if workshop.task.kind == "pair" else None),)
    package = str(Path(__file__).resolve().parents[2])
    paths = [package, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    finished = subprocess.run(
        [sys.executable, "-P", "-m", __name__, str(directory), workshop.device],
        input=json.dumps([[row.text, row.text_b] for row in rows]),
        capture_output=True,
        encoding="utf-8",
        timeout=PROOF_SECONDS,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
        check=False,
    )
    if finished.returncode != 0:
        said = finished.stderr.strip().splitlines() or ["nothing said"]
        raise BundleError(
            f"bundle: a clean process cannot load it ({said[-1]}); report this with your settings"
        )
    theirs = numpy.asarray(json.loads(finished.stdout.splitlines()[-1]))
    apart = float(numpy.abs(numpy.exp(theirs) - numpy.exp(learner.scores(rows))).max())
    if not apart <= TOLERANCE:
        raise BundleError(
            f"bundle: a clean process gives probabilities {apart:.1e} away from ours "
            f"(at most {TOLERANCE:.0e} allowed); report this with your settings"
        )


def _json(value: Mapping[str, Any]) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(_json(value), encoding="utf-8")


def _write_toml(path: Path, value: Mapping[str, Any]) -> None:
    import tomli_w

    path.write_text(tomli_w.dumps(value), encoding="utf-8")


def _answer() -> None:
    """Score the rows on the standard input with the bundle named on the command line."""
    rows = [Example(text, text_b) for text, text_b in json.loads(sys.stdin.read())]
    scores = load_bundle(sys.argv[1], sys.argv[2]).scores(rows)
    print(json.dumps(scores.tolist()))


if __name__ == "__main__":
    _answer()
