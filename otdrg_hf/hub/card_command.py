"""`otdrg card`: finds out what a card is asked of, and which options belong to it."""

from pathlib import Path

from otdrg_hf.data.phantom import PHANTOM_NAMES

from .dataset_card import write_dataset_card, write_phantom_card
from .figures import read_figures
from .model_card import write_model_card

DEFAULT_STUDIES = ("train=1000", "validation=1000", "test=1000")


def write_card(
    source: Path,
    *,
    evaluation: Path | None = None,
    evaluated_on: str | None = None,
    split: str | None = None,
    system: str | None = None,
    license: str | None = None,
    repo_id: str | None = None,
    studies: list[str] | None = None,
    output: Path | None = None,
) -> Path:
    """
    Writes the card of a model's folder, of a prepared dataset's, or of phantoms, as `source` is one or the other.

    Args:
        source (`Path`): The folder, or `phantom` or `phantom_hard`.
        evaluation, evaluated_on, split, system: See [`read_figures`]; for models.
        license, repo_id, output: See [`write_model_card`].
        studies (`list[str]`, *optional*): `SPLIT=NUMBER` of each split; for phantoms.

    Raises:
        ValueError: for a folder that is neither, and options that do not belong together.
    """
    is_phantom = str(source) in PHANTOM_NAMES and not source.exists()
    is_model = (source / "config.json").is_file() or (source / "adapter_config.json").is_file()
    for name, value, belongs in (
        ("evaluation", evaluation, is_model),
        ("repo_id", repo_id, is_model),
        ("studies", studies, is_phantom),
        ("license", license, not is_phantom),
    ):
        if value is not None and not belongs:
            raise ValueError(f"--{name} does not belong to the card of {source.name}.")
    if is_phantom:
        if output is None:
            raise ValueError("Phantoms have no folder: give --output, such as --output README.md.")
        return write_phantom_card(_numbers(studies or DEFAULT_STUDIES), output, str(source))
    if not is_model:
        if not source.is_dir():
            raise ValueError(
                f"There is no folder {source.name}: give a model's, one of otdrg prepare, or a phantom's name."
            )
        return write_dataset_card(source, license=license, output=output)
    if (source / "adapter_config.json").is_file():
        raise ValueError(
            f"{source.name} is a LoRA adapter: make a whole model of it first, by python -m "
            "otdrg_hf.hub.merge_adapter ADAPTER_DIR MODEL_DIR."
        )
    figures = None
    if evaluation is not None:
        figures = read_figures(evaluation, evaluated_on, split, system)
    elif (evaluated_on, split, system) != (None, None, None):
        raise ValueError("--evaluated_on, --split and --system are about an --evaluation: give its file.")
    return write_model_card(source, figures, license=license, repo_id=repo_id, output=output)


def _numbers(studies) -> dict[str, int]:
    numbers = {}
    for text in studies:
        split, _, number = text.partition("=")
        if not number.isdigit():
            raise ValueError(f"--studies {text}: give SPLIT=NUMBER, such as train=1000.")
        numbers[split] = int(number)
    return numbers
