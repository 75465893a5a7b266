"""Makes a whole model of a LoRA adapter and its base, ready for its card and the Hub."""

import argparse
import os
import shutil
from pathlib import Path

from .model_card import write_model_card
from .provenance import RECORD_FILE


def merge_adapter(adapter_dir: str | os.PathLike, model_dir: str | os.PathLike) -> None:
    """
    Writes the model, its processor, its training record and its card to `model_dir`, which appears whole or not at all.

    Args:
        adapter_dir (`str` or `os.PathLike`): What training with `--use_peft` wrote.
        model_dir (`str` or `os.PathLike`): A folder that is not there yet.

    Raises:
        ValueError: if `adapter_dir` holds no adapter or `model_dir` is there already.
        ImportError: without peft.
    """
    from transformers import AutoModelForImageTextToText, AutoProcessor

    import otdrg_hf  # noqa: F401  (registers OTDRG with the Auto classes)

    from ..extras import require

    require("peft", extra="train")
    from peft import PeftConfig, PeftModel

    source, target = Path(adapter_dir), Path(model_dir)
    if not (source / "adapter_config.json").is_file():
        raise ValueError(f"{source.name} holds no adapter: give the folder that training with --use_peft wrote.")
    if target.exists():
        raise ValueError(f"{target.name} is there already: choose another folder.")
    base = source / "base"
    # Where the base was when the adapter was trained, if the adapter's folder no longer has it.
    base = base if base.is_dir() else Path(PeftConfig.from_pretrained(str(source)).base_model_name_or_path)
    model = PeftModel.from_pretrained(AutoModelForImageTextToText.from_pretrained(base), str(source)).merge_and_unload()
    unfinished = target.with_name(f"{target.name}.tmp")
    shutil.rmtree(unfinished, ignore_errors=True)
    model.save_pretrained(unfinished)
    AutoProcessor.from_pretrained(source).save_pretrained(unfinished)
    if (source / RECORD_FILE).is_file():
        shutil.copyfile(source / RECORD_FILE, unfinished / RECORD_FILE)
    write_model_card(unfinished, repo_id=target.absolute().name)
    os.replace(unfinished, target)


def main(arguments: list[str] | None = None) -> None:
    """The command line; what a user can mend is one line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("adapter_dir", help="the folder that training with --use_peft wrote")
    parser.add_argument("model_dir", help="the folder to write, not there yet")
    try:
        merge_adapter(**vars(parser.parse_args(arguments)))
    except (ValueError, ImportError, OSError) as error:
        parser.exit(2, f"error: {' '.join(str(error).split())}\n")


if __name__ == "__main__":
    main()
