"""Reports of films, one answer a film, in order; a film that cannot be read does not stop the others."""

import os
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import torch
from tqdm.auto import tqdm
from transformers import Pipeline, pipeline
from transformers.generation.streamers import BaseStreamer

from otdrg_hf import DEMO_CHECKPOINT
from otdrg_hf.images.finding import FoundImage as Film
from otdrg_hf.images.finding import find_images as find_films
from otdrg_hf.modeling.image_loading import load_radiograph
from otdrg_hf.modeling.pipeline_otdrg import TASK

DTYPES = ("auto", "float32", "bfloat16", "float16")


def report_images(
    images: Sequence[str],
    model: str | None = None,
    max_new_tokens: int = 256,
    batch_size: int = 1,
    device: str | None = None,
    dtype: str | None = None,
) -> Iterator[dict]:
    """
    Reports each image as a study of one view.

    Args:
        images (`Sequence[str]`): Paths, URLs, folders or patterns (see [`find_films`]).
        model (`str`, *optional*): Folder or Hub id; defaults to the bundled demo checkpoint.
        max_new_tokens, batch_size: As of the pipeline.
        device, dtype: As of [`load_reporter`].

    Yields:
        `dict`: As of [`report_films`].
    """
    films = find_films(images)
    yield from report_films(load_reporter(model, device, dtype), films, model_name(model), batch_size, max_new_tokens)


def load_reporter(model: str | None = None, device: str | None = None, dtype: str | None = None) -> Pipeline:
    """
    The pipeline of a model.

    Args:
        model (`str`, *optional*): Folder or Hub id; defaults to the bundled demo checkpoint.
        device (`str`, *optional*): `"cpu"`, `"cuda"`, `"cuda:1"`, `"mps"`; defaults to the best there is.
        dtype (`str`, *optional*): One of `DTYPES`; defaults to `"auto"`, that of the checkpoint.

    Raises:
        ValueError: for a device or dtype that this machine or torch does not have, and a model that cannot be loaded.
    """
    if dtype not in (None, *DTYPES):
        raise ValueError(f"{dtype!r} is no dtype; choose from {', '.join(DTYPES)}.")
    if device is not None:
        try:
            torch.empty(1, device=device)
        except (RuntimeError, AssertionError, NotImplementedError):
            raise ValueError(f"There is no device {device!r} here; leave it out for the best there is.") from None
    location = str(model or DEMO_CHECKPOINT)
    try:
        return pipeline(TASK, model=location, device=device, dtype=dtype or "auto")
    except (OSError, ValueError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0].replace(location, repr(model_name(model)))
        raise ValueError(f"The model {model_name(model)!r} cannot be loaded: {reason}") from error


def model_name(model: str | None) -> str:
    """What answers call a model: "demo" for the bundled one, a Hub id as it is, a folder without where it lies."""
    if model is None:
        return "demo"
    return Path(model).resolve().name if os.path.isdir(model) else model


def report_films(
    report: Pipeline,
    films: Iterable[Film],
    model: str,
    batch_size: int = 1,
    max_new_tokens: int = 256,
    candidates: int = 1,
    streamer: BaseStreamer | None = None,
    finished: int = 0,
) -> Iterator[dict]:
    """
    Reports each film as a study of one view, decoding the next batch while the model writes on one.

    Args:
        report ([`Pipeline`]): As of [`load_reporter`].
        films (`Iterable[Film]`): Read as they are needed.
        model (`str`): What the answers call it.
        batch_size (`int`, *optional*, defaults to 1): Films that run together.
        max_new_tokens (`int`, *optional*, defaults to 256): Bound on the length of a report, in tokens.
        candidates (`int`, *optional*, defaults to 1): Reports per film, by beam search if there are several.
        streamer ([`BaseStreamer`], *optional*): Gets the report of a single film as it is written.
        finished (`int`, *optional*, defaults to 0): Films of an earlier run, for the progress bar.

    Yields:
        `dict`: `image` (the film's name) and `error`, or `image`, `model` and what the pipeline answers, as
        [`~reviewing.review_answer`] completes it; `docs/report.md` describes it all.
    """
    from otdrg_hf.reviewing import review_answer

    rows: deque[dict] = deque()
    total = len(films) + finished if isinstance(films, Sequence) else None
    options = {"num_beams": candidates, "num_return_sequences": candidates} if candidates > 1 else {}
    answers = report(
        _readable(films, rows),
        batch_size=batch_size,
        max_new_tokens=max_new_tokens,
        streamer=streamer,
        generate_kwargs=options,
    )
    with tqdm(total=total, initial=finished, desc="Reporting", unit="film", disable=total == 1) as progress:
        for answer in answers:
            while "error" in rows[0]:
                yield rows.popleft()
                progress.update()
            yield {**rows.popleft(), "model": model, **review_answer(answer)}
            progress.update()
        yield from rows
        progress.update(len(rows))


def _readable(films: Iterable[Film], rows: deque[dict]) -> Iterator:
    """The films that can be read; a row for each film, in order, with the error of those that cannot."""
    for film in films:
        try:
            picture = load_radiograph(film.location, f"image {film.name!r}")
        except ValueError as error:
            rows.append({"image": film.name, "error": str(error)})
        else:
            rows.append({"image": film.name})
            yield picture
