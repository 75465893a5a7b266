"""A recipe with another dataset than its own: `--dataset` on the command line."""

import argparse
from pathlib import Path

import yaml


def without_load_kwargs(arguments: list[str]) -> list[str]:
    """
    The command line, with the recipe's `load_kwargs` taken back where it names another dataset than the recipe.

    They are options of the recipe's own dataset, such as how large phantoms are drawn, which others do not know.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for name in ("--config", "--dataset", "--load_kwargs"):
        parser.add_argument(name)
    given, _ = parser.parse_known_args(arguments)
    if given.dataset is None or given.load_kwargs is not None or not (given.config and Path(given.config).is_file()):
        return arguments
    recipe = yaml.safe_load(Path(given.config).read_text(encoding="utf-8"))
    if not isinstance(recipe, dict) or not recipe.get("load_kwargs") or recipe.get("dataset") == given.dataset:
        return arguments
    return [*arguments, "--load_kwargs", "{}"]
