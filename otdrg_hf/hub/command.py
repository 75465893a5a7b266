"""`otdrg card`, `otdrg merge` and `otdrg push`."""

import json
import os
import shutil
from pathlib import Path

from otdrg_hf.data.phantom import PHANTOM_NAMES
from otdrg_hf.extras import require
from otdrg_hf.files import atomic_path
from otdrg_hf.hub.dataset_card import write_dataset_card, write_phantom_card
from otdrg_hf.hub.model_card import read_scores, write_model_card
from otdrg_hf.hub.provenance import RECORD_FILE
from otdrg_hf.hub.push import check_repo_id, plan_push, push_model, push_page
from otdrg_hf.hub.space import SPACE_FILES

DEFAULT_STUDIES = ("train=1000", "validation=1000", "test=1000")


def run_card(source: Path, **options) -> None:
    """Writes a card and prints where; the arguments are those of [`write_card`]."""
    print(f"wrote {write_card(source, **options)}")


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
        evaluation, evaluated_on, split, system: See [`read_scores`]; for models.
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
            f"{source.name} is a LoRA adapter: make a whole model of it first, by otdrg merge ADAPTER_DIR MODEL_DIR."
        )
    scores = None
    if evaluation is not None:
        scores = read_scores(evaluation, evaluated_on, split, system)
    elif (evaluated_on, split, system) != (None, None, None):
        raise ValueError("--evaluated_on, --split and --system are about an --evaluation: give its file.")
    return write_model_card(source, scores, license=license, repo_id=repo_id, output=output)


def _numbers(studies) -> dict[str, int]:
    numbers = {}
    for text in studies:
        split, _, number = text.partition("=")
        if not number.isdigit():
            raise ValueError(f"--studies {text}: give SPLIT=NUMBER, such as train=1000.")
        numbers[split] = int(number)
    return numbers


def merge_adapter(adapter_dir: str | os.PathLike, model_dir: str | os.PathLike) -> None:
    """
    Writes the model, its processor, its training record and its card to `model_dir`, which appears whole or not at all.

    Args:
        adapter_dir (`str` or `os.PathLike`): What training with `--use_peft` wrote.
        model_dir (`str` or `os.PathLike`): A folder that is not there yet.

    Raises:
        ValueError: if `adapter_dir` is not an adapter or `model_dir` exists.
        ImportError: without peft.
    """
    source, target = Path(adapter_dir), Path(model_dir)
    if not (source / "adapter_config.json").is_file():
        raise ValueError(f"{source.name} is not an adapter: give the folder that training with --use_peft wrote.")
    if target.exists():
        raise ValueError(f"{target.name} is there already: choose another folder.")
    require("peft", extra="train")
    from peft import PeftConfig, PeftModel

    from otdrg_hf import OTDRGForConditionalGeneration, OTDRGProcessor

    base = source / "base"
    # Where the base was when the adapter was trained, if the adapter's folder no longer has it.
    base = base if base.is_dir() else Path(PeftConfig.from_pretrained(str(source)).base_model_name_or_path)
    model = OTDRGForConditionalGeneration.from_pretrained(base)
    model = PeftModel.from_pretrained(model, str(source)).merge_and_unload()
    target.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(target) as unfinished:
        model.save_pretrained(unfinished)
        OTDRGProcessor.from_pretrained(source).save_pretrained(unfinished)
        if (source / RECORD_FILE).is_file():
            shutil.copyfile(source / RECORD_FILE, unfinished / RECORD_FILE)
        write_model_card(unfinished, repo_id=target.absolute().name)


def run_push(
    model_dir: Path,
    repo_id: str,
    *,
    message: str = "Upload OTDRG model",
    dry_run: bool = False,
    as_json: bool = False,
    space: str | None = None,
    **options,
) -> None:
    """
    Prints what goes to the Hub, uploads it and prints the address of the commit.

    Args:
        model_dir, repo_id, options: As of [`plan_push`].
        message (`str`, *optional*): Of the commit.
        dry_run (`bool`, *optional*, defaults to `False`): Upload nothing.
        as_json (`bool`, *optional*, defaults to `False`): Print a JSON object instead of text.
        space (`str`, *optional*): Make this Space as well, which runs the model behind the page of `otdrg app`.
    """
    if space is not None:
        check_repo_id(space)
    plan = plan_push(model_dir, repo_id, **options)
    if not as_json:
        print(plan.text(), flush=True)
    if space is not None and not as_json:
        print(f"{', '.join(SPACE_FILES)} to the Space {space}", flush=True)
    address = None if dry_run else push_model(plan, message)
    page = None if dry_run or space is None else push_page(plan, space)
    if as_json:
        row = {**plan.to_dict(), "commit": address}
        print(json.dumps(row if space is None else {**row, "space": space, "space_commit": page}))
    else:
        print("dry run: nothing was uploaded" if dry_run else "\n".join(filter(None, [address, page])))
