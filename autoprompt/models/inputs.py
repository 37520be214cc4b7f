"""What a model reads: rendered pieces to ids, rows to a batch. Knows tokenizers, not weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from autoprompt.text.demonstrations import Demonstration
from autoprompt.text.template import Piece
from autoprompt.text.tokens import tokenize_piece
from autoprompt.text.truncation import TokenPiece, TruncationError, level, shorten_evenly, truncate

if TYPE_CHECKING:
    import torch

# Texts shared by many templates are tokenised once; about 40 tokens each, some 20 MB when full.
CACHED_PIECES = 16_384
# Of a demonstration's text: one of fewer tokens shows little, and a round is left out instead.
LEAST_SHOWN = 8


class InputError(ValueError):
    """A prompt that this tokenizer cannot lay out; the message names the piece."""

    exit_code = 2


@dataclass(frozen=True, slots=True)
class Encoded:
    """One row: `ids` and `segments` of equal length, `masks` the positions to read, `soft` the
    positions whose ids stand for learned vectors, `reserve` how many more tokens it will get,
    `decoder` what an encoder-decoder's decoder reads, in which `masks` count then."""

    ids: tuple[int, ...]
    segments: tuple[int, ...]
    masks: tuple[int, ...]
    soft: tuple[int, ...] = ()
    reserve: int = 0
    decoder: tuple[int, ...] = ()

    def behind(self, count: int) -> Encoded:
        """The row without its first tokens, of which none is read or learned."""
        return replace(
            self,
            ids=self.ids[count:],
            segments=self.segments[count:],
            masks=tuple(place - count for place in self.masks),
            soft=tuple(place - count for place in self.soft),
        )


@dataclass(frozen=True, slots=True)
class Past:
    """What was read before the rows of a batch: key_values [L, 2, B, N, H, D] of every layer,
    padded on the right, and how many tokens they are of each row, lengths [B]."""

    key_values: torch.Tensor
    lengths: torch.Tensor

    @property
    def real(self) -> torch.Tensor:
        """Which of them are no padding: boolean [B, N]."""
        import torch

        places = torch.arange(self.key_values.shape[3], device=self.lengths.device)
        return places < self.lengths.unsqueeze(1)


@dataclass(frozen=True, slots=True)
class ModelInputs:
    """A right-padded batch.

    input_ids [B, T], attention_mask [B, T], token_type_ids [B, T] or None, mask_positions [B, M],
    soft [B, P] or None: the soft slots; all int64. embeds [B, T, E]: what is read instead of the
    ids' embeddings, None where nothing is. prefix [L, 2, P, H, D]: keys and values before those of
    every layer. offset: positions that are taken before the row's first. decoder_ids [B, D] or
    None: what a decoder reads, in which mask_positions count then. deep [L - 1, P, d]: hidden
    states that replace those at the soft slots before every layer but the first. past: tokens
    before the row's first that need not be read again; never beside a prefix, which would change
    them.
    """

    input_ids: torch.Tensor
    attention_mask: torch.Tensor
    token_type_ids: torch.Tensor | None
    mask_positions: torch.Tensor
    soft: torch.Tensor | None = None
    embeds: torch.Tensor | None = None
    prefix: torch.Tensor | None = None
    offset: int = 0
    decoder_ids: torch.Tensor | None = None
    deep: torch.Tensor | None = None
    past: Past | None = None

    def to(self, device: torch.device | str) -> ModelInputs:
        """The same batch on a device."""
        moved = {
            field.name: value.to(device, non_blocking=True)
            for field in fields(self)
            if hasattr(value := getattr(self, field.name), "to")
        }
        return replace(self, **moved)


def collate(
    rows: Sequence[Encoded],
    pad_id: int,
    *,
    segments: bool = False,
    multiple: int = 1,
    longest: int | None = None,
) -> ModelInputs:
    """Pad rows on the right to the longest one, then to a `multiple` but at most `longest` less
    what they reserve.

    All rows must read equally many positions and have equally many soft slots.
    """
    import torch

    longest = _width(max(len(row.ids) for row in rows), multiple, longest, rows[0].reserve)
    ids = torch.full((len(rows), longest), pad_id, dtype=torch.int64)
    attention = torch.zeros((len(rows), longest), dtype=torch.int64)
    types = torch.zeros((len(rows), longest), dtype=torch.int64) if segments else None
    for index, row in enumerate(rows):
        length = len(row.ids)
        ids[index, :length] = torch.tensor(row.ids, dtype=torch.int64)
        attention[index, :length] = 1
        if types is not None:
            types[index, :length] = torch.tensor(row.segments, dtype=torch.int64)
    positions = torch.tensor([row.masks for row in rows], dtype=torch.int64)  # [B, M]
    soft = torch.tensor([row.soft for row in rows], dtype=torch.int64) if rows[0].soft else None
    decoder = None
    if rows[0].decoder:
        decoder = torch.full((len(rows), max(len(row.decoder) for row in rows)), pad_id)
        for index, row in enumerate(rows):
            decoder[index, : len(row.decoder)] = torch.tensor(row.decoder)
    return ModelInputs(ids, attention, types, positions, soft, decoder_ids=decoder)


def _width(most: int, multiple: int, longest: int | None, reserve: int) -> int:
    """Of a batch whose longest row has `most` tokens."""
    rounded = -(-most // multiple) * multiple
    return rounded if longest is None else max(most, min(rounded, longest - reserve))


class Laid:
    """Rows on a device, padded once: a batch of some is cut out there, and nothing is sent but
    their numbers. The batch is that of `collate`."""

    def __init__(
        self,
        rows: Sequence[Encoded],
        pad_id: int,
        *,
        device: str,
        segments: bool = False,
        multiple: int = 1,
        longest: int | None = None,
    ) -> None:
        options = {"segments": segments, "multiple": multiple, "longest": longest}
        self._whole = collate(rows, pad_id, **options).to(device)  # type: ignore[arg-type]
        self._device, self._multiple, self._longest = device, multiple, longest
        self.lengths = [len(row.ids) for row in rows]
        self._decoders = [len(row.decoder) for row in rows]
        self._reserve = rows[0].reserve

    def take(self, chosen: Sequence[int]) -> ModelInputs:
        """The batch of these rows."""
        import torch

        most = max(self.lengths[index] for index in chosen)
        width = _width(most, self._multiple, self._longest, self._reserve)
        read = max(self._decoders[index] for index in chosen)
        numbers = torch.tensor(chosen).to(self._device, non_blocking=True)

        def some(part: torch.Tensor) -> torch.Tensor:
            return part.index_select(0, numbers)

        whole = self._whole
        types, soft, decoder = whole.token_type_ids, whole.soft, whole.decoder_ids
        return ModelInputs(
            some(whole.input_ids)[:, :width],
            some(whole.attention_mask)[:, :width],
            None if types is None else some(types)[:, :width],
            some(whole.mask_positions),
            None if soft is None else some(soft),
            decoder_ids=None if decoder is None else some(decoder)[:, :read],
        )


def pack(beginnings: Sequence[torch.Tensor], multiple: int = 1) -> Past:
    """Keys and values [L, 2, n, H, D] of each row, padded to a `multiple`."""
    import torch

    lengths = [part.shape[2] for part in beginnings]
    layers, two, _, heads, size = beginnings[0].shape
    longest = -(-max(lengths) // multiple) * multiple
    packed = beginnings[0].new_zeros(layers, two, len(beginnings), longest, heads, size)
    for row, (part, length) in enumerate(zip(beginnings, lengths, strict=True)):
        packed[:, :, row, :length] = part
    return Past(packed, torch.tensor(lengths, device=packed.device))


Stretch = tuple[tuple[int, ...], tuple[int, ...]]  # ids, segments


@dataclass(frozen=True, slots=True)
class SpecialTokens:
    """A tokenizer's own frame around one side, or two: ids and segment of each stretch."""

    single: tuple[Stretch, ...]  # before, after
    single_segment: int
    pair: tuple[Stretch, ...]  # before, between, after
    pair_segments: tuple[int, int]


def special_tokens(tokenizer: Any) -> SpecialTokens:
    """Find the frame by encoding a probe word, since version 5 of transformers has no call for it.

    `InputError` where the probe is not found again in the framed text.
    """
    probe = "a"
    word = list(tokenizer(probe, add_special_tokens=False)["input_ids"])
    framed = []
    for arguments in ((probe,), (probe, probe)):
        encoded = tokenizer(*arguments, return_token_type_ids=True)
        ids = list(encoded["input_ids"])
        types = list(encoded.get("token_type_ids") or [0] * len(ids))
        framed.append((ids, types))
    (one, one_types), (two, two_types) = framed
    start = _find(one, word, 0)
    end = start + len(word)
    first = _find(two, word, 0)
    second = _find(two, word, first + len(word))
    return SpecialTokens(
        single=(_stretch(one, one_types, 0, start), _stretch(one, one_types, end, len(one))),
        single_segment=one_types[start],
        pair=(
            _stretch(two, two_types, 0, first),
            _stretch(two, two_types, first + len(word), second),
            _stretch(two, two_types, second + len(word), len(two)),
        ),
        pair_segments=(two_types[first], two_types[second]),
    )


def _stretch(ids: list[int], types: list[int], start: int, end: int) -> Stretch:
    return tuple(ids[start:end]), tuple(types[start:end])


def _find(ids: list[int], word: list[int], start: int) -> int:
    for position in range(start, len(ids) - len(word) + 1):
        if ids[position : position + len(word)] == word:
            return position
    raise InputError(
        f"model: its tokenizer frames 'a' as {ids}, where its ids {word} do not stand; "
        "use a tokenizer with ordinary special tokens"
    )


class PromptEncoder:
    """Rendered pieces to rows of one tokenizer, cut to `max_length`; texts are tokenised once.

    kind: `masked`; `causal`: rows end where the mask would stand, and the last token is read (soft
    tokens from behind the mask come before it); `sentinel` (T5): `mask_id` stands at the gap, and
    the decoder is read behind that same id; `denoising` (BART): the decoder reads the row again,
    one place later, without soft tokens, and is read where the mask is. `start_id`: the decoder's
    first.

    Demonstrations stand behind the query in a masked model, each closed as a side is and in the
    segment of a second one (Gao et al. 2021, section 6), and before it in the others, each with a
    new line behind it where the vocabulary has one.
    """

    def __init__(
        self,
        tokenizer: Any,
        max_length: int,
        *,
        kind: str = "masked",
        mask_id: int | None = None,
        start_id: int = 0,
    ) -> None:
        self._tokenizer = tokenizer
        self._kind, self._start_id = kind, start_id
        self._mask_id = int((tokenizer.mask_token_id or 0) if mask_id is None else mask_id)
        self.reads_onwards = kind == "causal"
        self.one_token = kind in ("causal", "sentinel")
        self.demonstrations_first = kind != "masked"
        # What stands at a soft slot is never read; it only has to be an id.
        self._slot_id = int(tokenizer.pad_token_id or 0)
        self._special = special_tokens(tokenizer)
        self.max_length = max_length
        self.opening = len(self._special.single[0][0])  # tokens of the frame before a text
        self._tokenise: Callable[[Piece], tuple[int, ...]] = lru_cache(CACHED_PIECES)(
            # no more of a document than is ever read
            lambda piece: tokenize_piece(tokenizer, piece)[:max_length]
        )

    def encode(
        self,
        pieces: Sequence[Piece],
        masks: int = 1,
        lead: int = 0,
        reserve: int = 0,
        beside: Sequence[Demonstration] = (),
    ) -> Encoded:
        """Lay out one prompt with `masks` mask tokens where its mask piece stands.

        `lead` soft slots come before the tokenizer's own frame, `reserve` positions stay free. A
        `sep` piece begins the second side of the tokenizer's pair format. The row is cut by PET's
        rule, texts of a single side alike; `TruncationError` when the template alone is too long.
        The demonstrations `beside` it have the room that it leaves.
        """
        sides: list[list[TokenPiece]] = [[]]
        for piece in pieces:
            if piece.kind == "sep":
                sides.append([])
            elif piece.kind == "mask":
                sides[-1].append(TokenPiece("mask", (self._mask_id,) * masks))
            elif piece.kind == "soft":
                sides[-1].append(TokenPiece("soft", (self._slot_id,) * piece.length))
            else:
                ids = self._tokenise(replace(piece, shortenable=False))
                sides[-1].append(TokenPiece("words", ids, piece.shortenable))
        if self.one_token and masks > 1:
            raise InputError(
                f"words: this kind of model ({self._kind}) reads one token, not {masks}; set "
                "words.multi_token=refuse or give words of one token"
            )
        if self.reads_onwards:
            return self._frame([self._onwards(sides)], lead, reserve, beside)
        # A separator that opens or ends the prompt leaves an empty side: one side is meant.
        return self._frame([side for side in sides if side] or [[]], lead, reserve, beside)

    def _onwards(self, sides: Sequence[Sequence[TokenPiece]]) -> list[TokenPiece]:
        """One side that ends before the mask; `InputError` for a text behind it."""
        pieces = [piece for side in sides for piece in side]
        at = next((n for n, piece in enumerate(pieces) if piece.kind == "mask"), len(pieces))
        behind = pieces[at + 1 :]
        if any(piece.shortenable for piece in behind):
            raise InputError(
                "template: a text stands behind {mask}, where a causal model never reads it; put "
                "{mask} behind every text"
            )
        return [*pieces[:at], *(piece for piece in behind if piece.kind == "soft")]

    def encode_plain(self, text: str, text_b: str | None = None, reserve: int = 0) -> Encoded:
        """The tokenizer's own format of one text or a pair, no mask; reads the first token, or the
        last where the tokenizer puts none first. `reserve` positions stay free; `TruncationError`
        where that leaves none."""
        sides = [
            [TokenPiece("words", self._tokenise(Piece("words", words.strip())), True)]
            for words in ((text,) if text_b is None else (text, text_b))
        ]
        try:
            framed = self._frame(sides, reserve=reserve)
        except TruncationError:
            raise TruncationError(
                f"prompt_length: {reserve} leaves no room for a text, as the model reads "
                f"{self.max_length} tokens; use a shorter one, or a model that reads longer inputs"
            ) from None
        read = len(framed.ids) - 1 if self.one_token else 0
        return Encoded(framed.ids, framed.segments, (read,), reserve=reserve)

    def _frame(
        self,
        sides: Sequence[Sequence[TokenPiece]],
        lead: int = 0,
        reserve: int = 0,
        beside: Sequence[Demonstration] = (),
    ) -> Encoded:
        frame = self._special.single
        segments: tuple[int, ...] = (self._special.single_segment,)
        if len(sides) == 2:
            frame, segments = self._special.pair, self._special.pair_segments
        if self.reads_onwards:
            frame = (*frame[:-1], ((), ()))  # the answer comes next, not an end of text
        room = self.max_length - lead - reserve - sum(len(ids) for ids, _ in frame)
        ids: list[int] = [self._slot_id] * lead + list(frame[0][0])
        types: list[int] = [segments[0]] * lead + list(frame[0][1])
        masks: list[int] = []
        soft = list(range(lead))
        cut = truncate(sides if len(sides) == 2 else [level(sides[0], room)], room)
        shown: list[int] = []
        if beside:
            shown = self._shown(beside, room - sum(len(p.ids) for side in cut for p in side))
        if self.demonstrations_first:
            ids += shown
            types += [segments[0]] * len(shown)
        for side, segment, (after, after_types) in zip(cut, segments, frame[1:], strict=True):
            for piece in side:
                if piece.kind != "words":
                    positions = masks if piece.kind == "mask" else soft
                    positions.extend(range(len(ids), len(ids) + len(piece.ids)))
                ids.extend(piece.ids)
                types.extend([segment] * len(piece.ids))
            ids.extend(after)
            types.extend(after_types)
        if not self.demonstrations_first:
            ids += shown
            types += [self._special.pair_segments[1]] * len(shown)
        if self.reads_onwards:
            if not ids:
                raise InputError(
                    "template: nothing stands before {mask}; put words or a text there"
                )
            masks = [len(ids) - 1]
        decoder: tuple[int, ...] = ()
        if self._kind == "sentinel":
            decoder, masks = (self._start_id, self._mask_id), [1]
        elif self._kind == "denoising":
            hard = [place for place in range(len(ids)) if place not in set(soft)]
            decoder = (self._start_id, *(ids[place] for place in hard[:-1]))
            masks = [hard.index(place) for place in masks]
        return Encoded(tuple(ids), tuple(types), tuple(masks), tuple(soft), reserve, decoder)

    def _shown(self, beside: Sequence[Demonstration], room: int) -> list[int]:
        """Ids of the demonstrations, those of a round left out where there is no room for it."""
        between, closing = self._special.pair[1][0], self._special.single[1][0]
        if self.demonstrations_first:
            line = self._tokenise(Piece("words", "\n"))
            between, closing = (), () if self._tokenizer.unk_token_id in line else line
        sequences = []
        for one in beside:
            laid = []
            for piece in one.pieces:
                ids = between
                if piece.kind != "sep":
                    ids = self._tokenise(replace(piece, shortenable=False))
                laid.append(TokenPiece("words", ids, piece.shortenable))
            sequences.append([*laid, TokenPiece("words", closing)])
        found = shorten_evenly(sequences, [one.round for one in beside], room, LEAST_SHOWN)
        return [token for pieces in found if pieces for piece in pieces for token in piece.ids]
