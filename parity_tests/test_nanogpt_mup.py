"""Steps of nanoGPT-mup's published code, recorded in `benchmarks/results`, beside ours."""

import importlib
import json
from pathlib import Path

import pytest


def test_our_gpt_takes_the_recorded_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Twice the base width and four times its depth, under the rule of α = ½."""
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "benchmarks")
    anchor = importlib.import_module("anchor_nanogpt_mup")
    case = anchor.Case(0.5, 8, 2)
    recorded = json.loads(anchor.THEIRS.read_text())
    assert recorded["source"]["commit"] == "6f8bc3bdc744556141255f810a22387b2255b6c1"
    expected = recorded["cases"][str(case)]
    got = anchor.ours(case, anchor.rule_over_depth(case.alpha))
    assert anchor.difference(got, expected) <= anchor.WITHIN
    assert got["losses"] == pytest.approx(expected["losses"], rel=anchor.WITHIN)
