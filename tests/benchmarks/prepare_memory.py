"""Measures time and peak memory of preparing made-up MIMIC-CXR trees of 2,000 and 10,000 studies, side by side."""

import argparse
import multiprocessing
import resource
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "data"))


def measure(tree: str, output: str, image_size: int | None, num_proc: int, answer) -> None:
    from otdrg_hf.data import prepare_dataset

    start = time.perf_counter()
    summary = prepare_dataset("mimic_cxr", output, tree, image_size=image_size, num_proc=num_proc)
    seconds = time.perf_counter() - start
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    workers = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    answer.send((summary["studies"], seconds, own / 1024, workers / 1024))


def main() -> None:
    from mimic_tree import write_mimic_tree

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[2000, 10000])
    parser.add_argument("--image_size", type=int)
    parser.add_argument("--num_proc", type=int, default=1)
    options = parser.parse_args()
    peaks = []
    for size in options.sizes:
        with tempfile.TemporaryDirectory() as folder:
            tree = Path(folder, "mimic")
            write_mimic_tree(tree, size)
            context = multiprocessing.get_context("spawn")
            receiver, sender = context.Pipe(duplex=False)
            arguments = (str(tree), str(Path(folder, "out")), options.image_size, options.num_proc, sender)
            process = context.Process(target=measure, args=arguments)
            process.start()
            sender.close()
            studies, seconds, own, workers = receiver.recv()
            process.join()
        peaks.append(max(own, workers))
        print(
            f"{studies:>7,} studies  {studies / seconds:7.0f} studies/s  peak {own:.0f} MiB, workers {workers:.0f} MiB"
        )
    print(f"peak memory ratio {peaks[-1] / peaks[0]:.3f}")


if __name__ == "__main__":
    main()
