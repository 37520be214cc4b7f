"""One template and one set of words, as a study's pools hold them."""

from __future__ import annotations

from autoprompt.search.choices import Pools
from autoprompt.text.verbalizer import Verbalizer
from storage.records import PoolEntry

WORDS = Verbalizer((("bad", ("terrible",)), ("good", ("great",)))).to_json()
POOLS = Pools(
    (
        PoolEntry("template", "t000", "{text} it was {mask} .", "user", None),
        PoolEntry("words", "v00", WORDS, "user", None),
    )
)
