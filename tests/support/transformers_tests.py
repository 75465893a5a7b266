"""
transformers' own test classes, from the source archive of the installed release: they are not in its wheel.

The archive is fetched by pip once, into a cache outside the repository; nothing of it is committed.
"""

import importlib
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import transformers
from PIL import Image

PACKAGE = "transformers_tests"
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "otdrg-hf"
# What the modules import and the archive lacks. Tests of generation and export are our own.
ABSENT = {
    f"{PACKAGE}.exporters.test_export": ("ExportTesterMixin",),
    f"{PACKAGE}.generation.test_utils": ("GenerationTesterMixin",),
}


def transformers_tests(name: str) -> ModuleType:
    """
    A module of transformers' tests.

    For modules of tests whose names end in `_suite.py`: these are collected only where slow tests are asked for (see
    tests/conftest.py). Where the archive cannot be had, the module that calls is skipped with the reason.

    Args:
        name (`str`): The module, such as `"test_processing_common"`.
    """
    pytest.importorskip("parameterized", reason="transformers' tests need the package parameterized")
    if PACKAGE not in sys.modules:
        folder = CACHE / f"transformers-{transformers.__version__}-tests"
        if not folder.is_dir():
            _fetch(folder)
        _make_importable(folder)
    return importlib.import_module(f"{PACKAGE}.{name}")


def _fetch(folder: Path) -> None:
    """Unpacks the tests of the official source archive to `folder`, or skips."""
    CACHE.mkdir(parents=True, exist_ok=True)
    release = f"transformers=={transformers.__version__}"
    with tempfile.TemporaryDirectory(dir=CACHE) as temporary:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", ":all:", release]
        try:
            done = subprocess.run([*command, "--dest", temporary], capture_output=True, text=True, timeout=600)
        except subprocess.TimeoutExpired:
            pytest.skip(f"the source archive of {release} took longer than ten minutes", allow_module_level=True)
        archives = list(Path(temporary).glob("transformers-*.tar.gz"))
        if done.returncode or not archives:
            reason = (done.stderr.strip().splitlines() or ["pip gives no reason"])[-1]
            pytest.skip(f"the source archive of {release} cannot be had: {reason}", allow_module_level=True)
        with tarfile.open(archives[0]) as archive:
            members = [member for member in archive if Path(member.name).parts[1:2] == ("tests",)]
            archive.extractall(temporary, members, filter="data")
        unpacked = archives[0].with_name(archives[0].name.removesuffix(".tar.gz")) / "tests"
        if not unpacked.is_dir():
            pytest.skip(f"the source archive of {release} holds no tests", allow_module_level=True)
        try:
            unpacked.rename(folder)
        except OSError:  # another process was faster
            shutil.rmtree(unpacked)


def _make_importable(folder: Path) -> None:
    package = ModuleType(PACKAGE)
    package.__path__ = [str(folder)]
    sys.modules[PACKAGE] = package
    for name, classes in ABSENT.items():
        parent, _, _ = name.rpartition(".")
        sys.modules.setdefault(parent, ModuleType(parent)).__path__ = []
        sys.modules[name] = module = ModuleType(name)
        for each in classes:
            setattr(module, each, type(each, (), {}))
    # transformers' CI replaces the addresses of its test files by local copies; here, each image is one picture.
    sys.modules["fetch_hub_objects_for_ci"] = module = ModuleType("fetch_hub_objects_for_ci")
    module.url_to_local_path = lambda url: str(_picture()) if url.endswith((".png", ".jpg")) else url


def _picture() -> Path:
    path = CACHE / "picture.png"
    if not path.is_file():
        pixels = np.random.default_rng(0).integers(0, 256, (480, 640, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
    return path
