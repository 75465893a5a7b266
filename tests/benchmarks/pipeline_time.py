"""
CPU time of the demo pipeline under this environment and under another, such as that of an earlier checkout.

    python tests/benchmarks/pipeline_time.py OTHER_CHECKOUT/.venv/bin/python

Both run interleaved in processes of their own, one study at a time and in batches of 8; printed are minima and ratios.
"""

import json
import subprocess
import sys

RUNS = 5
SCRIPT = """
import json, time
import torch
import otdrg_hf
from transformers import pipeline
from otdrg_hf.data.phantom.study import make_phantom

torch.set_num_threads(1)
report = pipeline("radiology-report", model=str(otdrg_hf.DEMO_CHECKPOINT))
size = report.processor.image_processor.size["height"]
studies = [make_phantom(seed, "test", image_size=size) for seed in range(24)]
studies = [{"images": study.images, "views": study.views} for study in studies]
report(studies[:2], batch_size=2)
times = {}
for name, batch_size in (("single", 1), ("batches of 8", 8)):
    start = time.process_time()
    report(studies, batch_size=batch_size)
    times[name] = time.process_time() - start
print(json.dumps(times))
"""


def main() -> None:
    interpreters = {"this": sys.executable, "other": sys.argv[1]}
    times: dict[str, list[dict]] = {name: [] for name in interpreters}
    for _ in range(RUNS):
        for name, python in interpreters.items():
            process = subprocess.run([python, "-c", SCRIPT], capture_output=True, text=True, check=True)
            times[name].append(json.loads(process.stdout.splitlines()[-1]))
    for key in times["this"][0]:
        this, other = (min(run[key] for run in times[name]) for name in ("this", "other"))
        print(f"{key:12s} {this:.2f} s, other {other:.2f} s: ratio {this / other:.3f}")


if __name__ == "__main__":
    main()
