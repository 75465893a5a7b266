"""
Damages radiograph files and reads them: each must give an image or one line, within 5 seconds and 1 GiB.

    python -m tests.benchmarks.fuzz_radiographs [--number 10000] [--start 0]

The files are those of ../shared/cases where they are, and one of every kind that the tests make. Mutation N is the same
each time: `tests.support.mutations.mutated(N)`. They are read in a separate process (Linux), which is restarted when a
mutation fails. Prints how many gave images and lines, the worst time and memory, and each mutation that failed; exits
with 1 if one did.
"""

import argparse
import multiprocessing
import re
import sys
import time
import traceback
import warnings
from collections import Counter

from otdrg_hf.images import load_radiograph
from tests.support.mutations import mutated

SECONDS, MIB = 5.0, 1024


def read_all(connection) -> None:
    """Reads the mutation of each number that comes."""
    warnings.simplefilter("ignore")
    connection.send(peak_memory())
    while True:
        number = connection.recv()
        content = mutated(number)
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")  # resets the peak
        start = time.perf_counter()
        try:
            image = load_radiograph(content)
            answer = ("image", "") if image.mode == "RGB" and min(image.size) >= 16 else ("failure", "not an RGB image")
        except (ValueError, ImportError) as error:
            text = str(error)
            whole = text.startswith("image given as bytes: ") and "\n" not in text
            answer = ("line", text) if whole else ("failure", text)
        except BaseException:
            answer = ("failure", traceback.format_exc())
        connection.send((*answer, time.perf_counter() - start, peak_memory()))


def peak_memory() -> float:
    with open("/proc/self/status", encoding="ascii") as file:
        return int(re.search(r"VmHWM:\s+(\d+) kB", file.read()).group(1)) / 1024


class Reader:
    """The process that reads, and the pipe to it."""

    def __init__(self):
        context = multiprocessing.get_context("spawn")
        self.pipe, other = context.Pipe()
        self.process = context.Process(target=read_all, args=(other,), daemon=True)
        self.process.start()
        other.close()
        self.memory = self.pipe.recv()

    def read(self, number: int) -> tuple[str, str, float, float]:
        try:
            self.pipe.send(number)
            if self.pipe.poll(2 * SECONDS):
                return self.pipe.recv()
            return "failure", "hangs", 2 * SECONDS, 0.0
        except (EOFError, OSError):
            self.process.join()
            return "failure", f"the process died ({self.process.exitcode})", 0.0, 0.0

    def end(self) -> None:
        self.process.kill()
        self.process.join()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.strip().splitlines()[0])
    parser.add_argument("--number", type=int, default=10_000)
    parser.add_argument("--start", type=int, default=0)
    options = parser.parse_args()
    outcomes, lines, failures, slowest, largest = Counter(), Counter(), [], (0.0, 0), (0.0, 0)
    reader = Reader()
    for number in range(options.start, options.start + options.number):
        outcome, text, seconds, mib = reader.read(number)
        slowest, largest = max(slowest, (seconds, number)), max(largest, (mib, number))
        if outcome != "failure" and (seconds > SECONDS or mib > MIB):
            outcome, text = "failure", f"{seconds:.1f} s, {mib:.0f} MiB"
        outcomes[outcome] += 1
        lines[re.sub(r"\(.*|\d[\d,]*", "", text)] += outcome == "line"
        if outcome == "failure":
            failures.append(number)
            print(f"{number}: {text}", flush=True)
            reader.end()
            reader = Reader()
    reader.end()
    print(f"{outcomes['image']:,} images, {outcomes['line']:,} lines, {outcomes['failure']:,} failures {failures}")
    print(f"slowest {slowest[0]:.2f} s (mutation {slowest[1]})")
    print(f"largest {largest[0]:,.0f} MiB (mutation {largest[1]}), of which {reader.memory:,.0f} without any file")
    for text, count in lines.most_common():
        if count:
            print(f"{count:6,}  {text}")
    return bool(failures)


if __name__ == "__main__":
    sys.exit(main())
