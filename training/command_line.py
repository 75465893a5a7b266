"""The command line of a run: what it changes of a recipe besides the fields that it names."""

import argparse
import os
import warnings
from pathlib import Path
from typing import Any, NoReturn

import torch
import yaml
from transformers.utils import is_torch_bf16_gpu_available
from trl import TrlParser

PRECISIONS = ("bf16", "fp16", "tf32")


class OneLineParser(TrlParser):
    """TRL's parser, with each mistake as a `ValueError` instead of a page of usage."""

    def error(self, message: str) -> NoReturn:
        raise ValueError(message)

    def parse_args_and_config(self, *args, **kwargs):
        try:
            with warnings.catch_warnings():
                # Of fields that TRL itself sets by the names that transformers has given up.
                warnings.simplefilter("ignore", FutureWarning)
                return super().parse_args_and_config(*args, **kwargs)
        except TypeError as error:  # of a mapping that is no option of what it configures
            raise ValueError(str(error)) from error


def without_load_kwargs(arguments: list[str]) -> list[str]:
    """
    The command line, with the recipe's `load_kwargs` taken back where it names another dataset than the recipe.

    They are options of the recipe's own dataset, such as how large phantoms are drawn, which others do not know.
    """
    given, recipe = _given(arguments, "dataset", "load_kwargs"), _recipe(arguments)
    if given.keys() != {"dataset"} or not recipe.get("load_kwargs") or recipe.get("dataset") == given["dataset"]:
        return arguments
    return [*arguments, "--load_kwargs", "{}"]


def for_this_device(arguments: list[str]) -> list[str]:
    """
    The command line, with a precision that this machine computes in where the recipe, or TRL's default of bf16, asks
    for another. What the command line names stays, as does the precision of a recipe that says `use_cpu`; a dry run
    plans for another machine and has only to start on this one.
    """
    given, recipe = _given(arguments, "dry_run", "use_cpu", *PRECISIONS), _recipe(arguments)
    use_cpu = given.get("use_cpu", recipe.get("use_cpu"))
    accelerator = torch.accelerator.is_available()
    changes = {} if accelerator or use_cpu is not None else {"use_cpu": "true"}
    if "dry_run" not in given and not recipe.get("dry_run"):
        on_cpu = not accelerator or str(use_cpu).lower() == "true"
        if on_cpu and recipe.get("use_cpu"):
            unfit = () if "bf16" in recipe else ("bf16",)
        else:
            unfit = PRECISIONS if on_cpu else () if is_torch_bf16_gpu_available() else ("bf16", "tf32")
        asked = {"bf16": "fp16" in unfit or not recipe.get("fp16"), **recipe}
        left_out = [name for name in unfit if asked.get(name) and name not in given]
        changes |= dict.fromkeys(left_out, "false")
        if left_out and os.environ.get("RANK", "0") == "0":
            print(
                f"No GPU for {' or '.join(left_out)}: computing in fp32. --{left_out[0]} true asks for it all the same."
            )
    return [*arguments, *(part for name, value in changes.items() for part in (f"--{name}", value))]


def _given(arguments: list[str], *names: str) -> dict[str, Any]:
    """Those of some options that the command line names."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for name in names:
        spellings = dict.fromkeys((f"--{name}", f"--{name.replace('_', '-')}"))
        parser.add_argument(*spellings, dest=name, nargs="?", const="true", default=argparse.SUPPRESS)
    return vars(parser.parse_known_args(arguments)[0])


def _recipe(arguments: list[str]) -> dict[str, Any]:
    """The fields of the recipe; none where there is no recipe, or no mapping in it: the parser will say so."""
    path = _given(arguments, "config").get("config")
    if not path or not Path(path).is_file():
        return {}
    fields = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    return fields if isinstance(fields, dict) else {}
