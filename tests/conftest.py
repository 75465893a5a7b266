"""Fixtures of all tests: a tiny model and processor, images and inputs, and the `otdrg` command."""

import os
import sys

# Matrices as small as these gain nothing from more threads, and those of two workers would wait for each other: before
# torch is imported, and for every process that a test starts.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import hypothesis  # noqa: E402
import numpy as np  # noqa: E402
import pytest  # noqa: E402
import torch  # noqa: E402

import otdrg_hf  # noqa: E402, F401  (registers OTDRG with the Auto classes)
from otdrg_hf import OTDRGForConditionalGeneration, OTDRGProcessor  # noqa: E402
from otdrg_hf.cli import main  # noqa: E402
from tests.support.tiny_models import make_films, make_model, make_processor  # noqa: E402

# The same examples every time; `--hypothesis-profile=default` tries others.
hypothesis.settings.register_profile("same", derandomize=True, deadline=None)
hypothesis.settings.load_profile("same")

# The tests are written for a CPU; see which hold on another device by OTDRG_TEST_DEVICE=cuda.
if device := os.environ.get("OTDRG_TEST_DEVICE"):
    torch.set_default_device(device)
    generator = torch.Generator
    torch.Generator = lambda device=device: generator(device)


def pytest_ignore_collect(collection_path, config):
    """Modules that download a test suite when they are imported are left alone where no slow test is asked for."""
    return True if collection_path.name.endswith("_suite.py") and config.option.markexpr == "not slow" else None


@pytest.fixture(scope="session")
def processor() -> OTDRGProcessor:
    return make_processor(num_image_tokens=4)


@pytest.fixture(scope="session")
def model() -> OTDRGForConditionalGeneration:
    """ViT and Llama; tests that change it make their own."""
    return make_model()


@pytest.fixture(scope="session")
def films() -> list[np.ndarray]:
    return make_films(4)


@pytest.fixture(scope="session")
def inputs(processor, films):
    """Three studies of one, two and one views, with prompts of different lengths."""
    studies = [[films[0]], [films[1], films[2]], [films[3]]]
    return processor(images=studies, indication=["Cough.", None, "The heart is normal in size."])


@pytest.fixture(scope="session")
def folder(tmp_path_factory, model, processor):
    """A saved model and its processor."""
    path = tmp_path_factory.mktemp("checkpoint")
    model.save_pretrained(path)
    processor.save_pretrained(path)
    return path


@pytest.fixture(scope="session")
def known(tmp_path_factory):
    """The folder of a tiny model that knows rough chest radiographs."""
    from otdrg_hf.training.input_statistics import add_input_statistics
    from tests.support.other_images import chest_studies

    folder = tmp_path_factory.mktemp("known")
    model = make_model()
    processor = make_processor(num_image_tokens=model.config.image_seq_length)
    add_input_statistics(folder, chest_studies(120), model, processor, write=False)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    """A headless Chromium."""
    from tests.support.browsing import CHROMIUM, DRIVER, NO_BROWSER, start_browser

    assert CHROMIUM and DRIVER, NO_BROWSER
    browser = start_browser(tmp_path_factory.mktemp("profile"))
    yield browser
    browser.quit()


@pytest.fixture
def otdrg(capfd, monkeypatch, tmp_path):
    """Runs the `otdrg` command in this process, in the test's folder; gives its exit code, stdout and stderr."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["otdrg", *map(str, arguments)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as end:
            main()
        return end.value.code or 0, *capfd.readouterr()

    return run
