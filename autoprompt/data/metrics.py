"""Scores of predicted classes. Knows class numbers, not texts or learners."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean, stdev

METRICS = ("accuracy", "macro_f1", "mcc")


def metrics(
    truth: Sequence[int], predicted: Sequence[int], labels: Sequence[str]
) -> dict[str, float]:
    """Accuracy, macro-F1, MCC, and precision, recall and F1 of each class, all in [0, 1] but
    MCC in [-1, 1].

    `truth` and `predicted` hold N positions in `labels`. Macro-F1 is the mean over all labels of
    the task, those without a row too; a ratio without denominator is 0. MCC is the R_K statistic
    for K classes (Gorodkin 2004, eq. 8), 0 where it is undefined. ValueError for N = 0 or
    unequal lengths.
    """
    if len(truth) != len(predicted) or not truth:
        raise ValueError(
            f"metrics: {len(truth)} true and {len(predicted)} predicted classes; "
            "give as many of both, at least one"
        )
    n = len(truth)
    hits = [0] * len(labels)
    true_counts = [0] * len(labels)
    predicted_counts = [0] * len(labels)
    for true, guess in zip(truth, predicted, strict=True):
        true_counts[true] += 1
        predicted_counts[guess] += 1
        hits[true] += true == guess
    by_class: dict[str, float] = {}
    scores = []
    for label, hit, actual, guessed in zip(
        labels, hits, true_counts, predicted_counts, strict=True
    ):
        scores.append(_ratio(2 * hit, actual + guessed))
        by_class[f"precision/{label}"] = _ratio(hit, guessed)
        by_class[f"recall/{label}"] = _ratio(hit, actual)
        by_class[f"f1/{label}"] = scores[-1]
    correct = sum(hits)
    # Whole numbers up to the last step, so that a zero variance is exactly zero.
    together = correct * n - sum(
        actual * guessed for actual, guessed in zip(true_counts, predicted_counts, strict=True)
    )
    spread_true = n * n - sum(count * count for count in true_counts)
    spread_predicted = n * n - sum(count * count for count in predicted_counts)
    return {
        "accuracy": correct / n,
        "macro_f1": fmean(scores),
        "mcc": _ratio(together, math.sqrt(spread_true * spread_predicted)),
        **by_class,
    }


def accuracy_ci95(accuracy: float, n: int) -> tuple[float, float]:
    """95 % interval of an accuracy over `n` rows (Wilson 1927, score interval)."""
    if n < 1 or not 0 <= accuracy <= 1:
        raise ValueError(
            f"accuracy_ci95: accuracy={accuracy}, n={n}; give an accuracy in [0, 1] and n >= 1"
        )
    z = 1.959963984540054  # the normal distribution's 0.975 quantile
    scale = 1 + z * z / n
    centre = (accuracy + z * z / (2 * n)) / scale
    half = z / scale * math.sqrt(accuracy * (1 - accuracy) / n + z * z / (4 * n * n))
    return max(0.0, centre - half), min(1.0, centre + half)


def lower_bound(values: Sequence[float], ratio: float, confidence: float = 0.95) -> float | None:
    """One-sided lower bound of the mean over blocks that share training rows.

    mean - t(confidence, n - 1) * sd * sqrt(1/n + ratio), `ratio` = n_evaluation / n_train: the
    corrected resampled variance (Nadeau and Bengio 2003, section 3; Bouckaert and Frank 2004).
    None for fewer than two values.
    """
    n = len(values)
    if n < 2:
        return None
    from scipy.special import stdtrit  # scipy.stats would take seconds to import

    return fmean(values) - float(stdtrit(n - 1, confidence)) * stdev(values) * math.sqrt(
        1 / n + ratio
    )


#: A standard deviation below this is rounding.
EQUAL = 1e-9


def few_blocks(blocks: int, sd: float | None = None) -> bool:
    """Whether so many blocks, of scores with that standard deviation, are too few for their lower
    bound to be relied on.

    Two or three, or up to seven whose scores are all equal: that comes by chance where a block has
    a handful of rows, and the bound then has no doubt in it.
    """
    equal = sd is not None and sd < EQUAL
    return blocks < 4 or (equal and blocks < 8)


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else 0.0
