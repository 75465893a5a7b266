"""Reports per processor second (one core) of label_reports, beside medspacy's target matcher and ConText.

Run `python tests/benchmarks/labeler_rate.py [REPORTS.tgz] [--medspacy_python PATH]`. Without the IU X-Ray reports it
labels phantom reports; without medspacy (in this interpreter or the one given) it says so and leaves its row out.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

from otdrg_hf.evaluation.agreement import iu_texts  # noqa: E402
from otdrg_hf.labeling import label_reports, labeler  # noqa: E402
from otdrg_hf.labeling.rules import load_rules  # noqa: E402

IU_REPORTS = Path(__file__).resolve().parents[3] / "shared" / "data" / "iu_xray" / "NLMCXR_reports.tgz"
MEDSPACY_REPORTS = 200

# Runs in an interpreter that has medspacy; 40 targets are fewer than our phrases, which is in its favour.
MEDSPACY = """
import json, sys, time
import medspacy
from medspacy.ner import TargetRule
nlp = medspacy.load(medspacy_enable=["medspacy_pyrush", "medspacy_target_matcher", "medspacy_context"])
words = {words!r}
nlp.get_pipe("medspacy_target_matcher").add([TargetRule(word, "FINDING") for word in words])
reports = json.load(sys.stdin)
nlp(reports[0])
start = time.process_time()
found = sum(len(nlp(report).ents) for report in reports)
print(json.dumps({{"seconds": time.process_time() - start, "mentions": found}}))
"""
WORDS = (
    "cardiomegaly,enlarged heart,heart size,mediastinum,widened mediastinum,opacity,opacities,infiltrate,infiltrates,"
    "airspace disease,nodule,nodules,mass,masses,lesion,edema,heart failure,vascular congestion,consolidation,"
    "consolidations,pneumonia,infection,atelectasis,collapse,pneumothorax,pneumothoraces,effusion,effusions,"
    "pleural fluid,pleural thickening,fracture,fractures,catheter,tube,pacemaker,picc line,sternotomy wires,scarring,"
    "granuloma,hyperinflation"
).split(",")


def read_reports(path: Path) -> tuple[str, list[str]]:
    if path.exists():
        return "IU X-Ray", list(iu_texts(path).values())
    from otdrg_hf.data.phantom.study import plan_study

    plans = [plan_study(seed, "benchmark", None).text for seed in range(4000)]
    return "phantom", [f"FINDINGS: {plan.findings}\nIMPRESSION: {plan.impression}" for plan in plans]


def seconds(reports: list[str], cold: bool) -> float:
    """Processor seconds, best of three; `cold` forgets the sentences seen before."""
    best = float("inf")
    for _ in range(3):
        if cold:
            load_rules().sentences.clear()
        start = time.process_time()
        label_reports(reports)
        best = min(best, time.process_time() - start)
    return best


def uncached_seconds(reports: list[str]) -> float:
    kept, labeler._CACHED_SENTENCES = labeler._CACHED_SENTENCES, 0
    try:
        return seconds(reports, cold=True)
    finally:
        labeler._CACHED_SENTENCES = kept


def medspacy_rate(python: str, reports: list[str]) -> tuple[float | None, str]:
    script = MEDSPACY.format(words=WORDS)
    done = subprocess.run([python, "-c", script], input=json.dumps(reports), capture_output=True, text=True)
    if done.returncode:
        reason = done.stderr.strip().splitlines()[-1] if done.stderr.strip() else f"exit status {done.returncode}"
        return None, reason
    answer = json.loads(done.stdout.strip().splitlines()[-1])
    return len(reports) / answer["seconds"], ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("reports", nargs="?", type=Path, default=IU_REPORTS)
    parser.add_argument("--medspacy_python", default=sys.executable)
    options = parser.parse_args()

    start = time.process_time()
    load_rules()
    compiled = time.process_time() - start
    name, reports = read_reports(options.reports)
    distinct = [f"{report}\nSeries {k}." for k, report in enumerate(reports)]
    rows = [
        ("label_reports, every sentence matched anew", len(reports) / uncached_seconds(reports)),
        ("label_reports, from an empty sentence cache", len(reports) / seconds(reports, cold=True)),
        ("label_reports, sentences known", len(reports) / seconds(distinct, cold=False)),
    ]
    print(f"{len(reports)} {name} reports, one core, processor time; rules compiled in {compiled:.2f} s")
    rate, problem = medspacy_rate(options.medspacy_python, reports[:MEDSPACY_REPORTS])
    if rate is None:
        print(f"medspacy not measured: {problem}")
    else:
        rows.append((f"medspacy, the first {MEDSPACY_REPORTS} of them", rate))
    for title, value in rows:
        ratio = f"   {value / rows[-1][1]:6.1f} x medspacy" if rate else ""
        print(f"{title:45} {value:9,.0f} reports/s{ratio}")


if __name__ == "__main__":
    main()
