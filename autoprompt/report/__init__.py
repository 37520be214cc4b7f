"""A study read back: leaderboard, comparisons, page. Never trains, never imports torch."""
