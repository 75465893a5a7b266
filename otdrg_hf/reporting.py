"""Reports of image files, one answer a file, in order; a file that cannot be read does not stop the others."""

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

from tqdm.auto import tqdm
from transformers import pipeline

from otdrg_hf import DEMO_CHECKPOINT
from otdrg_hf.modeling.image_loading import load_radiograph
from otdrg_hf.modeling.pipeline_otdrg import TASK


def report_images(
    images: Sequence[str],
    model: str | None = None,
    max_new_tokens: int = 256,
    batch_size: int = 1,
    device: str | None = None,
) -> Iterator[dict]:
    """
    Reports each image as a study of one view.

    Args:
        images (`Sequence[str]`): Paths or URLs.
        model (`str`, *optional*): Folder or Hub id; defaults to the bundled demo checkpoint.
        max_new_tokens, batch_size, device: As of the pipeline.

    Yields:
        `dict` with `image` (the file name, without its folder) and what the pipeline answers, or `error`.
    """
    report = pipeline(TASK, model=model or str(DEMO_CHECKPOINT), device=device)
    remaining = iter(images)
    with tqdm(total=len(images), desc="Reporting", unit="film", disable=len(images) == 1) as progress:
        while batch := list(islice(remaining, batch_size)):
            yield from _report_batch(report, batch, max_new_tokens)
            progress.update(len(batch))


def _report_batch(report, batch: list[str], max_new_tokens: int) -> Iterator[dict]:
    rows, films = [], []
    for image in batch:
        row = {"image": Path(image).name}
        try:
            films.append(load_radiograph(image))
        except ValueError as error:
            row["error"] = str(error)
        rows.append(row)
    answers = iter(report(films, batch_size=len(films), max_new_tokens=max_new_tokens) if films else ())
    for row in rows:
        yield row if "error" in row else {**row, **next(answers)}
