"""Makes the bundled checkpoint from a training run: weights in fp16 on disk, used in fp32."""

import argparse
import json
import shutil
from pathlib import Path

import torch

from otdrg_hf.files import atomic_path
from otdrg_hf.hub.provenance import RECORD_FILE
from otdrg_hf.modeling.modeling_otdrg import OTDRGForConditionalGeneration
from otdrg_hf.modeling.processing_otdrg import OTDRGProcessor


def export(source: str, target: str) -> None:
    """Writes model and processor of `source` to `target`, which appears whole or not at all."""
    with atomic_path(target) as temporary:
        OTDRGForConditionalGeneration.from_pretrained(source, dtype=torch.float16).save_pretrained(temporary)
        OTDRGProcessor.from_pretrained(source).save_pretrained(temporary)
        _load_in_fp32(temporary / "config.json")
        # What the card of a model that starts from this one will say of its training.
        shutil.copy(Path(source, RECORD_FILE), temporary)
        # The package has the code; a second copy of it would only drift.
        for code in temporary.glob("*.py"):
            code.unlink()
        shutil.rmtree(target, ignore_errors=True)


def _load_in_fp32(path: Path) -> None:
    config = json.loads(path.read_text())
    for part in (config, config["text_config"], config["vision_config"]):
        part["dtype"] = "float32"
    for key in ("auto_map", "custom_pipelines"):
        config.pop(key, None)
    path.write_text(json.dumps(config, indent=1))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source", help="a folder written by training/sft.py")
    parser.add_argument("target", help="the checkpoint folder to replace")
    export(**vars(parser.parse_args()))
