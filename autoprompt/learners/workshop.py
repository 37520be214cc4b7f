"""What the learners of a run share: one resident model and its earlier answers. Fits nothing."""

from __future__ import annotations

import hashlib
import random
from collections import OrderedDict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import replace
from functools import cache, cached_property
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autoprompt.data.task import Example, Task, content_key
from autoprompt.text.template import Template, render

if TYPE_CHECKING:
    import torch

    from autoprompt.learners.beginnings import Beginnings
    from autoprompt.learners.prompt_pool import PromptPool
    from autoprompt.learners.scratch import Scratch
    from autoprompt.learners.training import Optimiser
    from autoprompt.models.backbone import Backbone
    from autoprompt.models.inputs import Encoded
    from autoprompt.models.sentence import SentenceEncoder

# Unlabelled texts that join the training texts in a calibration prior: its error is far below the
# spread between blocks by then, and each costs a forward per template.
MOST_UNLABELED = 128
# Unlabelled texts that an ensemble labels at most: each of its models reads all of them, and its
# pupil is taught with a few hundred rows. PET's paper takes 10,000 a class, on GPUs.
MOST_LABELED = 1_000
# Answer states kept at least, about 1.5 kB each for the built-in model.
CACHED_ANSWERS = 20_000
# So many labelled rows are read ahead with a template's first; of more, what is asked for.
READ_AHEAD = 512

_Key = tuple[str, int, str, str | None]  # template, masks, text, text_b


class Workshop:
    """Loads nothing until asked. `labelled` are all rows of the run, of which folds are made;
    `unlabeled` texts sharpen calibration priors and are labelled by ensembles; prompts can begin
    with `prompt_pool`. `scratch`: a folder for what long fits have finished."""

    def __init__(
        self,
        task: Task,
        model: str,
        device: str = "auto",
        precision: str = "auto",
        labelled: Sequence[Example] = (),
        *,
        unlabeled: Sequence[Example] = (),
        revision: str | None = None,
        multi_token: str = "masks",
        prompt_pool: PromptPool | None = None,
        scratch: Path | None = None,
    ) -> None:
        self.task, self.model, self.revision = task, model, revision
        self.device, self.precision = device, precision
        self.labelled = tuple(labelled)
        self.unlabeled = tuple(unlabeled)
        self.multi_token = multi_token
        self.prompt_pool = prompt_pool
        self._scratch = scratch
        self._key = cache(content_key)  # every block asks for those of the same rows
        self._answers: OrderedDict[Hashable, torch.Tensor] = OrderedDict()
        self._first: Workshop | None = None  # whose twin this is

    def twin(self) -> Workshop:
        """The same with a model of its own, for another thread: it begins with the answers that
        this one has, and shares its sentence encoder. Loads the model."""
        found = Workshop(
            self.task,
            self.model,
            self.device,
            self.precision,
            self.labelled,
            unlabeled=self.unlabeled,
            revision=self.revision or self.backbone.revision,
            multi_token=self.multi_token,
            prompt_pool=self.prompt_pool,
            scratch=self._scratch,
        )
        found._first = self._first or self
        found._answers = self._answers.copy()
        found.backbone  # noqa: B018  loads it
        return found

    @cached_property
    def backbone(self) -> Backbone:
        """The resident language model; `ModelError` when it cannot be loaded."""
        from autoprompt.models.load import load_model

        return load_model(
            self.model, device=self.device, precision=self.precision, revision=self.revision
        )

    @property
    def loaded(self) -> bool:
        """Whether the language model is there."""
        return "backbone" in vars(self)

    @cached_property
    def pool(self) -> Mapping[str, torch.Tensor] | None:
        """Tensors of the prompt pool, None without one; `PoolError` for one of another model."""
        return None if self.prompt_pool is None else self.prompt_pool.load(self.backbone)

    @cached_property
    def optimiser(self) -> Optimiser:
        """The training loop, whose memory is reused by every fit."""
        from autoprompt.learners.training import Optimiser

        return Optimiser()

    @cached_property
    def beginnings(self) -> Beginnings:
        """What the pretrained model keeps of texts that stand before a prompt."""
        from autoprompt.learners.beginnings import Beginnings

        return Beginnings(self.backbone)

    @cached_property
    def scratch(self) -> Scratch:
        """What a long fit has finished, for the same fit in a process after this one was killed."""
        from autoprompt.learners.scratch import Scratch

        return Scratch(self._scratch)

    @cached_property
    def sentence_encoder(self) -> SentenceEncoder:
        """The frozen sentence encoder of the installed package, whatever the model is."""
        from autoprompt.models.sentence import load_package_encoder

        if self._first is not None:
            return self._first.sentence_encoder
        return load_package_encoder(self.device)

    @cached_property
    def _own_encoder(self) -> SentenceEncoder:
        from autoprompt.models.sentence import of_model

        return of_model(self.backbone)

    def encoder_for(self, texts: Sequence[str]) -> SentenceEncoder:
        """Who tells texts of this language apart: the package's encoder, which knows English, or
        where that has no words for them the searched model's word vectors."""
        return self.sentence_encoder if self.sentence_encoder.reads(texts) else self._own_encoder

    def unlabeled_beside(
        self, rows: Sequence[Example], most: int = MOST_UNLABELED, seed: int = 0
    ) -> tuple[Example, ...]:
        """At most so many unlabelled texts for a learner of these labelled rows, in a drawn order:
        files are often sorted, by class or by date.

        Those equal to a labelled row that is not among `rows` are left out: on such rows the
        learner will be scored, and a text that it has read, if not its label, is no new one.
        """
        every = self.unlabeled
        if not every:
            return ()
        held_out = set(map(self._key, self.labelled)) - set(map(self._key, rows))
        order = random.Random(seed).sample(range(len(every)), len(every))
        kept = (every[n] for n in order if self._key(every[n]) not in held_out)
        return tuple(replace(text, label=None) for text in islice(kept, most))

    def pretrained_answers(
        self, template: Template, masks: int, examples: Sequence[Example]
    ) -> tuple[torch.Tensor, int]:
        """Answer states [N, masks, E] of the pretrained model, and how many tokens were read anew.

        Any word's logit is one product with such a state, so one forward serves every verbalizer,
        fold and calibration. The first call with a template reads all labelled rows at once, if
        they are few.
        """
        # also for answers in hand: the caller multiplies them by its words
        self.backbone.weights.reset()
        read = self.read_ahead([template], masks, examples)
        return self._known(_keys(template, masks, examples)), read

    def pretrained_states(self, rows: Sequence[Encoded]) -> tuple[torch.Tensor, int]:
        """The same for rows laid out already, which all read equally many positions: prompts with
        demonstrations, which differ by more than template and text."""
        self.backbone.weights.reset()
        # a row can be as long as the model reads: kept by its digest, not by its tokens
        wanted = [hashlib.sha256(repr(row).encode()).digest() for row in rows]
        asked = dict(zip(wanted, rows, strict=True))
        missing = {key: row for key, row in asked.items() if key not in self._answers}
        read = self._read(missing) if missing else 0
        return self._known(wanted), read

    @property
    def rows_ahead(self) -> int:
        """Labelled rows that are read with a template's first."""
        return len(self.labelled) if len(self.labelled) <= READ_AHEAD else 0

    def read_ahead(
        self, templates: Sequence[Template], masks: int, examples: Sequence[Example]
    ) -> int:
        """Read what `pretrained_answers` would, for several templates in one pool of rows; return
        how many tokens were read anew."""
        missing: dict[_Key, Template] = {}
        for template in templates:
            wanted = _keys(template, masks, examples)
            lacking = dict.fromkeys(key for key in wanted if key not in self._answers)
            if lacking and self.rows_ahead:
                ours = _keys(template, masks, self.labelled)
                if not lacking.keys().isdisjoint(ours):
                    lacking |= dict.fromkeys(key for key in ours if key not in self._answers)
            missing |= dict.fromkeys(lacking, template)
        if not missing:
            return 0
        self.backbone.weights.reset()
        return self._read({key: self._row(key, template) for key, template in missing.items()})

    def read_once(
        self, templates: Sequence[Template], masks: int, examples: Sequence[Example]
    ) -> torch.Tensor:
        """Answer states [T x N, masks, E] of T templates with N texts each, in the model's own
        precision; for looking once at many, so nothing is kept."""
        from autoprompt.models.reading import read_answers

        self.backbone.weights.reset()
        wanted = ((key, t) for t in templates for key in _keys(t, masks, examples))
        rows = [self._row(key, template) for key, template in wanted]
        return read_answers(self.backbone, rows, exactly=False)

    def _known(self, wanted: Sequence[Hashable]) -> torch.Tensor:
        """Kept answers [N, masks, E]; the longest unused are forgotten where they are too many."""
        import torch

        found = torch.stack([self._answers[key] for key in wanted])
        for key in dict.fromkeys(wanted):
            self._answers.move_to_end(key)
        # less than two templates' rows would be read again by every block
        room = max(CACHED_ANSWERS, 2 * (len(self.labelled) + MOST_UNLABELED))
        while len(self._answers) > room:
            self._answers.popitem(last=False)
        return found

    def _row(self, key: _Key, template: Template) -> Encoded:
        _, masks, text, text_b = key
        return self.backbone.encode(render(template, text, text_b), masks)

    def _read(self, rows: Mapping[Any, Encoded]) -> int:
        from autoprompt.models.reading import read_answers

        # One tensor each: a view would keep the whole batch alive.
        states = read_answers(self.backbone, list(rows.values()))
        for key, state in zip(rows, states, strict=True):
            self._answers[key] = state.clone()
        return sum(len(row.ids) for row in rows.values())


def _keys(template: Template, masks: int, examples: Sequence[Example]) -> list[_Key]:
    source = str(template)
    return [(source, masks, example.text, example.text_b) for example in examples]
