"""The studies of a run: all of them, a few of them without reading the others, and whether they fit into the LLM."""

import itertools
import os
from collections.abc import Iterable, Mapping
from typing import Any

import pyarrow.parquet as pq
from accelerate import PartialState
from datasets import Dataset

from otdrg_hf.data import load_study_dataset
from otdrg_hf.data.phantom import PHANTOM_NAMES
from otdrg_hf.data.prepared import is_prepared_folder, shard_files
from otdrg_hf.labeling import label_reports
from otdrg_hf.modeling.processing_otdrg import OTDRGProcessor
from otdrg_hf.training.arguments import StudyArguments

SAMPLE = 64
PHANTOM_SAMPLE = 8  # they have to be drawn
# Characters of a prompt that are not of a study: names of views and sections, and the end of the text.
WORDING_PER_VIEW, WORDING = 16, 64


def load_studies(args: StudyArguments, split: str, num_studies: int | None, num_proc: int | None):
    """The studies of a split that have the target text, with labels from where the run wants them."""
    options = dict(args.load_kwargs)
    if args.dataset in PHANTOM_NAMES and num_studies:
        options["num_studies"] = num_studies
    try:
        studies = load_study_dataset(args.dataset, split=split, **options)
    except TypeError as error:
        raise ValueError(f"load_kwargs: {error}") from error
    if num_studies and num_studies < len(studies):
        studies = studies.select(range(num_studies))
    if args.labels_from == "labeler":
        # Before any study is left out: a column added after that would copy the others, images and all.
        labels = label_reports(studies["report"], num_proc=num_proc)
        feature = studies.features["disease_labels"]
        studies = studies.remove_columns("disease_labels").add_column("disease_labels", list(labels), feature=feature)
    kept = [index for index, text in enumerate(studies[args.target]) if text.strip()]
    if not kept:
        raise ValueError(f"No {split} study of {args.dataset} has a text in its column {args.target}.")
    if len(kept) < len(studies):
        left_out = len(studies) - len(kept)
        PartialState().print(f"{split}: {left_out} of {len(studies)} studies have no {args.target} and are left out.")
        studies = studies.select(kept)
    return studies


def sample_studies(args: StudyArguments) -> tuple[int, list[dict]]:
    """
    The number of training studies, with or without the target text, and the first ones that have it.

    Raises:
        ValueError: if the dataset is not there, or none of the first studies has the target text.
    """
    options = dict(args.load_kwargs)
    if args.dataset in PHANTOM_NAMES:
        total = args.train_studies or options.get("num_studies", 1000)
        options["num_studies"] = min(total, PHANTOM_SAMPLE)
    else:
        total = _count(args.dataset, options)
        total = min(args.train_studies or total, total)
    try:
        studies = load_study_dataset(args.dataset, split="train", streaming=True, **options)
    except TypeError as error:
        raise ValueError(f"load_kwargs: {error}") from error
    # The images themselves are not needed: their number is that of the views.
    rows = studies.remove_columns("images")
    rows = [row for row in itertools.islice(rows, min(SAMPLE, total)) if row[args.target].strip()]
    if not rows:
        raise ValueError(
            f"None of the first {SAMPLE} studies of {args.dataset} has a text in its column {args.target}."
        )
    return total, rows


def _count(dataset: str, options: dict) -> int:
    folder = str(options.get("data_dir") or dataset)
    if os.path.isdir(folder) and is_prepared_folder(folder):
        return sum(pq.read_metadata(path).num_rows for path in shard_files(folder, "train"))
    studies = load_study_dataset(dataset, split="train", streaming=True, **options)
    return sum(1 for _ in studies.select_columns("id"))


def study_tokens(study: Mapping[str, Any], processor: OTDRGProcessor, target: str) -> tuple[int, int]:
    """Tokens of the prompt, visual and label tokens included, and of the report. No image is looked at."""
    views = study["views"]
    prompt = processor.build_prompt(len(views), views, study["indication"], study["comparison"], fit=False)
    completion = processor.build_completion(study[target])
    tokens = processor.tokenizer(completion, add_special_tokens=False)["input_ids"]
    return processor.count_tokens(prompt), len(tokens)


def check_context(
    studies: Iterable[Mapping[str, Any]], processor: OTDRGProcessor, target: str, text_only: bool = False
) -> None:
    """
    Makes sure that an LLM has positions for every study.

    Args:
        text_only (`bool`): Whether prompts leave the images out.

    Raises:
        ValueError: naming the first study that is too long, its length and the limit.
    """
    if isinstance(studies, Dataset):
        studies = studies.select_columns(list({"id", "views", "indication", "comparison", target})).with_format(None)
    if text_only:
        studies = ({**study, "views": []} for study in studies)
    too_long = too_long_studies(studies, processor, target)
    if too_long:
        study, (prompt, report) = next(iter(too_long.items()))
        in_all = f" ({len(too_long)} studies are too long)" if len(too_long) > 1 else ""
        raise ValueError(
            f"Study {study!r} takes {prompt + report} tokens (prompt {prompt}, report {report}), more than the LLM's "
            f"context of {processor.context_length}{in_all}: shorten the texts, leave studies out, or take an LLM with "
            "a longer context."
        )


def too_long_studies(
    studies: Iterable[Mapping[str, Any]], processor: OTDRGProcessor, target: str
) -> dict[str, tuple[int, int]]:
    """The ids of studies for which the LLM has not enough positions, with the tokens of prompt and report."""
    limit = processor.context_length
    if limit is None:
        return {}
    shortest = processor.count_tokens(processor.build_prompt(1, fit=False)) + WORDING
    too_long = {}
    for study in studies:
        if shortest + _most_tokens(study, processor, target) <= limit:
            continue
        prompt, report = study_tokens(study, processor, target)
        if prompt + report > limit:
            too_long[study["id"]] = prompt, report
    return too_long


def _most_tokens(study: Mapping[str, Any], processor: OTDRGProcessor, target: str) -> int:
    """A bound that needs no tokenizer: no token is less than a byte."""
    texts = (study[name] or "" for name in ("indication", "comparison", target))
    per_view = processor.num_image_tokens + WORDING_PER_VIEW
    return per_view * len(study["views"]) + sum(len(text.encode()) for text in texts)
