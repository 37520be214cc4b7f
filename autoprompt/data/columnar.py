"""Parquet files and Hugging Face data sets as columns of strings. Knows no column's meaning."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from autoprompt.data.formats import Cell, Sheet, Unreadable
from autoprompt.data.task import DataError, shown

HUB_PREFIX = "hf:"


def open_parquet(path: Path, source: str) -> Sheet:
    """The sheet of a parquet file; only the columns asked for are decoded. Raises DataError."""
    import pyarrow
    from pyarrow import parquet

    try:
        file = parquet.ParquetFile(path)
    except (OSError, pyarrow.ArrowException) as error:
        raise DataError(
            f"{source}: cannot be read as parquet ({_cause(error)}); check the file"
        ) from None
    names = tuple(file.schema_arrow.names)
    for name in names:
        if names.count(name) > 1:
            raise DataError(f"{source}: column {shown(name)} appears twice; rename one")

    def column(name: str) -> Sequence[Cell]:
        try:
            values = file.read(columns=[name]).column(name).to_pylist()
        except (OSError, UnicodeDecodeError, pyarrow.ArrowException) as error:
            raise DataError(
                f"{source}, column {shown(name)}: cannot be read ({_cause(error)}); "
                "write the file again"
            ) from None
        return [_cell(value) for value in values]

    return Sheet(names, range(1, file.metadata.num_rows + 1), column, "row {row}")


def open_hub(source: str) -> Sheet:
    """The sheet of `hf:NAME[:CONFIG][:SPLIT]`, by `datasets.load_dataset`; no remote code runs.

    NAME may be a local folder. One part after NAME is a configuration where the data set has one
    of that name, else a split; `hf:NAME::SPLIT` is never ambiguous. The split is `train` unless
    named. Class numbers become class names, -1 (no label) becomes a missing one. What a loader
    of `datasets` infers from files of its own (its csv loader reads `NA` as missing) stays so.
    """
    # A colon inside brackets belongs to a slice of a split: train[:100]
    name, *rest = re.split(r":(?![^\[\]]*\])", source.removeprefix(HUB_PREFIX))
    if not name or len(rest) > 2:
        raise DataError(f"data: {shown(source)} is not hf:NAME[:CONFIG][:SPLIT]; mend the name")
    import datasets

    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # a dozen lines of retries
    try:
        if len(rest) == 1:
            configurations = datasets.get_dataset_config_names(name)
            rest = [rest[0], ""] if rest[0] in configurations else ["", rest[0]]
        configuration, split = rest or ["", ""]
        dataset = datasets.load_dataset(name, configuration or None, split=split or "train")
    except Exception as error:  # the hub's client raises errors of a dozen packages
        raise DataError(
            f"data: {shown(source)} cannot be loaded ({type(error).__name__}: {_cause(error)}); "
            "check name, configuration, split and network, or give a file"
        ) from None

    def column(name: str) -> Sequence[Cell]:
        values = dataset.select_columns([name])[name]
        feature = dataset.features[name]
        if isinstance(feature, datasets.ClassLabel):
            return [
                None if value is None or value < 0 else feature.int2str(value) for value in values
            ]
        return [_cell(value) for value in values]

    return Sheet(tuple(dataset.column_names), range(1, len(dataset) + 1), column, "row {row}")


def _cell(value: Any) -> Cell:
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, float) and math.isnan(value):  # how pandas writes a missing value
        return None
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return str(value)
    return Unreadable(f"a {type(value).__name__}")


def _cause(error: Exception) -> str:
    """The first line of what went wrong: messages of ours have one line."""
    lines = str(error).strip().splitlines()
    return lines[0][:300].rstrip(". ") if lines else type(error).__name__
