"""How many studies a run would train on, and a few of them, without reading or copying the rest."""

import itertools
import os

from otdrg_hf.data import load_study_dataset
from otdrg_hf.data.phantom import PHANTOM_NAMES
from otdrg_hf.data.prepared import is_prepared_folder, shard_files

from .arguments import StudyArguments

SAMPLE = 64
PHANTOM_SAMPLE = 8  # they have to be drawn


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
    # The films themselves are not needed: their number is that of the views.
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
        import pyarrow.parquet as pq

        return sum(pq.read_metadata(path).num_rows for path in shard_files(folder, "train"))
    studies = load_study_dataset(dataset, split="train", streaming=True, **options)
    return sum(1 for _ in studies.select_columns("id"))
