"""What of a time budget is kept for the stages to come. Forecasts, runs nothing."""

from __future__ import annotations

from autoprompt.config import Config
from autoprompt.learners.members import FITS, LEAST
from autoprompt.search.bench import Bench
from autoprompt.search.confirm import Forecast

#: Shares of the budget that the confirmation and the ensembles may take at most.
CONFIRM_SHARE, COMBINE_SHARE = 0.3, 0.1
#: What confirming takes at least, however quick the candidates: words to choose, rows to write.
CONFIRM_SECONDS = 3.0
#: Blocks take now less, now more time than the last one.
CONFIRM_MARGIN = 1.15


def after_search(bench: Bench, forecast: Forecast, config: Config, total: float | None) -> float:
    """Seconds for all that follows the search, in a budget of `total`."""
    kept = after_combining(bench, forecast, config, total)
    if total is None:
        return kept
    return kept + combining(bench, forecast, config.ensemble.top, config.confirm.blocks, total)


def after_combining(bench: Bench, forecast: Forecast, config: Config, total: float | None) -> float:
    """Seconds for confirming and for the final training."""
    kept = bench.final_seconds if config.final.train else 0.0
    if not config.confirm.blocks or total is None:
        return kept
    cost = forecast.seconds(bench, config.confirm.top, config.confirm.blocks)
    return kept + CONFIRM_SECONDS + min(CONFIRM_MARGIN * cost, CONFIRM_SHARE * total)


def combining(bench: Bench, forecast: Forecast, top: int, blocks: int, total: float) -> float:
    """Seconds for all ensembles of the present best, scored and confirmed on `blocks` blocks; 0
    where not even the cheapest has room in a budget of `total`."""
    one = forecast.block_seconds(bench, top) * (bench.base_blocks + blocks)
    room = COMBINE_SHARE * total
    if top < LEAST or one > room:
        return 0.0
    return min(room, one * sum(FITS.values()))
