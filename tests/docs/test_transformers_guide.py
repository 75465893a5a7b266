"""Every block of docs/transformers.md runs as it stands, in order; compiling and exporting take minutes."""

import importlib.util

import pytest

from .guide_blocks import blocks_of

GUIDE = "docs/transformers.md"
SLOW = ("torch.compile(", "torch.export.", "onnxruntime")


def run_blocks(blocks) -> dict:
    names: dict = {}
    for block in blocks:
        exec(compile(block.text, GUIDE, "exec"), names)
    return names


def is_slow(block) -> bool:
    return any(name in block.text for name in SLOW)


def can_run(block) -> bool:
    """All but quantisation, which needs a package that `make test-slow` installs."""
    return "BitsAndBytes" not in block.text or importlib.util.find_spec("bitsandbytes") is not None


def test_blocks_that_load_and_generate_run(workplace, capsys):
    pytest.importorskip("peft")
    blocks = blocks_of(GUIDE)
    assert {block.language for block in blocks} == {"python"}
    run_blocks(block for block in blocks if not is_slow(block) and can_run(block))
    assert str(workplace) not in capsys.readouterr().out


@pytest.mark.slow
def test_blocks_that_compile_and_export_run(workplace):
    for name in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(name)
    first, *others = blocks_of(GUIDE)
    names = run_blocks([first, *filter(is_slow, others)])
    with names["torch"].no_grad():
        expected = names["model"](**names["images"]).disease_logits
    names["torch"].testing.assert_close(names["torch"].tensor(names["outputs"][0]), expected, atol=1e-3, rtol=0)
