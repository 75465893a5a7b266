"""Cases from the field (issue threads of other labelers, and short forms), where they lie beside this checkout."""

import json
from pathlib import Path

import pytest

from otdrg_hf.labeling import LABELS, STATES, label_reports

CASES = Path(__file__).resolve().parents[3] / "shared" / "cases" / "label.json"


def read_cases():
    if not CASES.exists():
        return [pytest.param({}, marks=pytest.mark.skip(reason="no field cases beside this checkout"))]
    cases = json.loads(CASES.read_text(encoding="utf-8"))
    return [pytest.param(case, id=f"{case['name']}: {case['input']!r}") for case in cases]


@pytest.mark.parametrize("case", read_cases())
def test_case(case):
    found = dict(zip(LABELS, (STATES[code] for code in label_reports([case["input"]])[0]), strict=True))
    expected = {label: state for label, state in case["expected"].items() if not label.startswith("_")}
    if case["expected"].get("_others") == "blank":
        open_to_judgement = {*case["expected"]["_not_judged"], "No Finding"}
        expected = {label: "blank" for label in LABELS if label not in open_to_judgement} | expected
    assert {label: found[label] for label in expected} == expected, case["why"]
