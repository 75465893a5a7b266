"""Python with packages that a user of this package need not have, and Python without this package."""

import importlib.util
import json
import os
import site
import subprocess
import sys
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def python_with(packages: dict[str, list[str]], folder: Path) -> str:
    """
    A Python that can import `packages` and all that this one can; skips the test where pip cannot get them.

    Args:
        packages (`dict[str, list[str]]`): module -> what pip is asked for, without dependencies: those that are not
            named are either here or not needed.
        folder (`Path`): for the environment.
    """
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if not missing:
        return sys.executable
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    [own] = folder.glob("lib/python*/site-packages")
    here = [path for path in site.getsitepackages() if Path(path).is_dir()]
    (own / "of_the_tests.pth").write_text("".join(f"import site; site.addsitedir({path!r})\n" for path in here))
    wanted = [name for module in missing for name in packages[module]]
    # `--ignore-installed`, since pip sees the packages of the tests, too.
    command = [str(python), "-m", "pip", "install", "--quiet", "--no-deps", "--ignore-installed", *wanted]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"pip cannot install {', '.join(wanted)}: {done.stderr.strip().splitlines()[-1]}")
    return str(python)


def run_json(python: str, code: str, **given) -> dict:
    """What the last line of standard output of `code` is, as JSON; `given` is its variable of that name."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    code = f"import json, sys\ngiven = json.loads(sys.stdin.read())\n{code}"
    done = subprocess.run(
        [python, "-c", code], input=json.dumps(given), capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def run_without_package(code: str, *arguments, folder: Path, **environment: str):
    """
    What the last line of standard output of `code` is, as JSON, in an interpreter that cannot import otdrg_hf.

    Args:
        code (`str`): what is run.
        *arguments: its `sys.argv[1:]`.
        folder (`Path`): where it runs, and where transformers keeps the code that comes with a checkpoint.
        **environment (`str`): further variables of its environment, which is empty otherwise.
    """
    # As if it were not installed: importing it raises ImportError.
    code = f'import sys\nsys.modules["otdrg_hf"] = None\n{code}'
    environment = {"HF_MODULES_CACHE": str(folder / "modules"), "OMP_NUM_THREADS": "1", "PATH": "", **environment}
    command = [sys.executable, "-c", code, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])
