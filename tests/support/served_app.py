"""The page of `otdrg app`, served in a process of its own."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple


class Site(NamedTuple):
    """A page that is served: its address, the folder for its temporary files, and its process."""

    address: str
    temporary: Path
    process: subprocess.Popen


def start_site(folder: Path, temporary: Path, *options: str) -> Site:
    """Starts `otdrg app` on a free port and waits until it is there."""
    environment = {**os.environ, "TMPDIR": str(temporary), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "otdrg_hf", "app", "--model", str(folder), "--port", "0", *options]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment, cwd=temporary
    )
    for line in process.stdout:
        if found := re.search(r"http://\S+", line):
            return Site(found[0], temporary, process)
    raise AssertionError("otdrg app ended before it served a page")
