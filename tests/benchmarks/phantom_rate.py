"""Films drawn per second of processor time on one core, with the report and without the PNG coding. A script."""

from __future__ import annotations

import os
import time

os.environ.setdefault("OMP_NUM_THREADS", "1")

from otdrg_hf.data.phantom import make_phantom  # noqa: E402


def rate(image_size: int, studies: int) -> tuple[float, float]:
    make_phantom(0, "benchmark", image_size)
    wall, own = time.perf_counter(), time.process_time()
    films = sum(len(make_phantom(seed, "benchmark", image_size).images) for seed in range(studies))
    return films / (time.process_time() - own), films / (time.perf_counter() - wall)


if __name__ == "__main__":
    print(f"{'pixels':>8}{'films/s of cpu time':>22}{'films/s of wall time':>22}{'ratio to the 20 asked':>24}")
    for image_size, studies in ((128, 60), (224, 60), (512, 15)):
        own, wall = rate(image_size, studies)
        print(f"{image_size:>8}{own:>22.1f}{wall:>22.1f}{own / 20:>24.2f}")
