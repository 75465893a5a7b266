"""Scores as the Hub shows them on a model's page: `.eval_results/*.yaml` next to the card."""

from pathlib import Path

import yaml

from otdrg_hf.files import write_text

EVAL_RESULTS_FOLDER = ".eval_results"
_FILE = "otdrg_evaluate.yaml"
_MARK = "# Written by otdrg card: the scores of its model card.\n"


def eval_results_files(folder: Path) -> list[str]:
    """The files of results in a model's folder, by their names in its repository."""
    return sorted(f"{EVAL_RESULTS_FOLDER}/{path.name}" for path in (folder / EVAL_RESULTS_FOLDER).glob("*.yaml"))


def check_eval_results(folder: Path) -> None:
    """Raises `ValueError` if the file of results there was not written by `save_eval_results`."""
    path = folder / EVAL_RESULTS_FOLDER / _FILE
    if path.exists() and not path.read_text(encoding="utf-8").startswith(_MARK):
        raise ValueError(f"{EVAL_RESULTS_FOLDER}/{_FILE} was written by someone: delete it, or give it another name.")


def save_eval_results(folder: Path, entries: list) -> None:
    """
    Writes the file of results of a card, or removes that of an earlier card where there are none; others stay.

    Args:
        folder (`Path`): Of the card.
        entries (`list[EvalResultEntry]`): The scores.

    Raises:
        ValueError: as of [`check_eval_results`].
    """
    from huggingface_hub import eval_result_entries_to_yaml

    check_eval_results(folder)
    path = folder / EVAL_RESULTS_FOLDER / _FILE
    if entries:
        path.parent.mkdir(exist_ok=True)
        write_text(path, _MARK + yaml.safe_dump(eval_result_entries_to_yaml(entries), sort_keys=False, width=1000))
    elif path.exists():
        path.unlink()
        if not any(path.parent.iterdir()):
            path.parent.rmdir()
