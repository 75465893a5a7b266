"""`otdrg serve` in a process of its own."""

import os
import re
import subprocess
import sys
import threading
from typing import NamedTuple


class Server(NamedTuple):
    """A server: its address, its process, and the lines that it has written so far."""

    address: str
    process: subprocess.Popen
    lines: list[str]

    def stop(self) -> int:
        """Asks it to end, as a service manager does; gives its exit code."""
        self.process.terminate()
        return self.process.wait(timeout=60)


def start_server(*options: str) -> Server:
    """Starts `otdrg serve` on a free port and waits until it is there."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "otdrg_hf", "serve", "--port", "0", *options]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)
    lines: list[str] = []
    for line in process.stdout:
        lines.append(line)
        if found := re.search(r"http://\S+", line):
            threading.Thread(target=lambda: lines.extend(process.stdout), daemon=True).start()
            return Server(found[0], process, lines)
    raise AssertionError("otdrg serve ended before it listened: " + "".join(lines))
