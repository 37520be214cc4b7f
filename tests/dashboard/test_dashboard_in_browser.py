"""optuna-dashboard in a real browser, showing our notes."""

from __future__ import annotations

import subprocess
import sys

import chromium
import pytest
from realistic_study import build
from test_app import SERVE, free_port, get

pytest.importorskip("optuna_dashboard", reason="extra 'dashboard' missing")
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(bool(chromium.missing()), reason=chromium.missing() or "there"),
]


def test_a_trial_shows_its_rendered_prompt_and_words(tmp_path):
    built = build(tmp_path, trials=12)
    built.store.close()
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "-c", SERVE, built.url, str(port)],
        stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        (listed,) = get(port, "/api/studies")["study_summaries"]
        at = f"http://127.0.0.1:{port}/dashboard/studies/{listed['study_id']}"
        with chromium.browser() as browser:
            browser.open(f"{at}/trials?numbers=0")
            seen = browser.wait_for_text("…your text…")
            assert "{text}" in seen
            assert "feature request" in seen
            assert "lower bound" in seen
            assert "[//]" not in seen
            assert "\\" not in seen
            browser.open(f"{at}/note")
            seen = browser.wait_for_text("Baselines are rows")
            assert "embeddings (baseline)" in seen
            assert "best prompt: trial" in seen
    finally:
        process.terminate()
        process.wait(timeout=20)
