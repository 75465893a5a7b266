"""The loop over studies: one answer per study, in order; a study that cannot be read does not stop the others."""

from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from tqdm.auto import tqdm

from otdrg_hf.reporting.candidates import SEED, rank_candidates, sampling_options
from otdrg_hf.reporting.loading import load_reporter, model_name
from otdrg_hf.reporting.review import review_answer

if TYPE_CHECKING:
    from transformers import Pipeline
    from transformers.generation.streamers import BaseStreamer

    from otdrg_hf.images.finding import FoundImage


def report_studies(
    report: "Pipeline",
    studies: Iterable[Any],
    *,
    batch_size: int = 1,
    max_new_tokens: int | None = None,
    candidates: int = 1,
    evidence: bool = False,
    operating_point: str | dict | None = None,
    sentences: bool | None = False,
    begins_with: str | None = None,
    impression_of: str | None = None,
    streamer: "BaseStreamer | None" = None,
    generate_kwargs: dict | None = None,
    description: str | None = "Reporting",
    unit: str = "study",
    total: int | None = None,
    finished: int = 0,
) -> Generator[dict, None, None]:
    """
    Reports studies, which are read as they are needed: the next batch in a thread while the model works on one.

    Args:
        report ([`Pipeline`]): As of [`load_reporter`].
        studies (`Iterable`): What the pipeline takes as a study; a `ValueError` stands for one that cannot be read.
        batch_size (`int`, *optional*, defaults to 1): Studies that run together.
        max_new_tokens (`int`, *optional*): Bound on the length of a report, in tokens; defaults to the model's.
        candidates (`int`, *optional*, defaults to 1): Reports per study. The first is that of one candidate, the others
            are sampled, always the same for the same batch, and `generated_text` becomes the best by
            [`rank_candidates`].
        evidence (`bool`, *optional*, defaults to `False`): Add heat maps.
        operating_point (`str` or `dict`, *optional*): As of the pipeline.
        sentences (`bool`, *optional*, defaults to `False`), begins_with, impression_of (`str`, *optional*):
            As of the pipeline.
        streamer ([`BaseStreamer`], *optional*): Gets the report of a single study as it is written.
        generate_kwargs (`dict`, *optional*): Further arguments of `generate`.
        description (`str`, *optional*, defaults to `"Reporting"`), unit (`str`), total (`int`, *optional*):
            Of the progress bar; there is none for a description of `None`.
        finished (`int`, *optional*, defaults to 0): Studies of an earlier run, for the progress bar.

    Yields:
        `dict`: What the pipeline answers, or `error` for a study that cannot be read.
    """
    errors: deque[ValueError | None] = deque()  # of the studies that were read and not answered yet

    def readable() -> Iterator[Any]:
        for study in studies:
            unreadable = isinstance(study, ValueError)
            errors.append(study if unreadable else None)
            if not unreadable:
                yield study

    options: dict[str, Any] = {"batch_size": batch_size, "streamer": streamer, "generate_kwargs": generate_kwargs or {}}
    options |= {} if max_new_tokens is None else {"max_new_tokens": max_new_tokens}
    options |= {"evidence": True} if evidence else {}
    options |= {} if candidates == 1 else {"sample_kwargs": sampling_options(candidates - 1), "seed": SEED}
    given = {"sentences": sentences, "begins_with": begins_with, "impression_of": impression_of}
    given["operating_point"] = operating_point
    options |= {name: value for name, value in given.items() if value is not None}
    with tqdm(total=total, initial=finished, desc=description, unit=unit, disable=description is None) as progress:
        ahead = _read_ahead(readable(), batch_size)
        for answer in report(ahead, **options):
            while (error := errors.popleft()) is not None:
                progress.update()
                yield {"error": str(error)}
            progress.update()
            yield answer if candidates == 1 else _best_first(answer)
        for error in errors:
            progress.update()
            yield {"error": str(error)}


def _best_first(answer: dict) -> dict:
    """The answer with its candidates in the order of [`rank_candidates`], and the report that comes first."""
    from otdrg_hf.modeling.report_text_otdrg import report_sections

    greedy, texts = answer["generated_text"], answer["candidates"]
    ranked = rank_candidates(texts, answer["findings"], greedy)
    best = {**answer, "generated_text": ranked[0], "candidates": ranked}
    if "sentences" in answer:
        best["sentences"] = best.pop("candidate_sentences")[texts.index(ranked[0])]
    best.pop("sections", None)
    sections = report_sections(ranked[0])
    return best if sections is None else {**best, "sections": sections}


def _read_ahead(studies: Iterator[Any], count: int) -> Iterator[Any]:
    """The studies in order; the next `count` are read in a thread while the consumer works on one."""
    end = object()
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="read-ahead") as worker:
        ahead = deque(worker.submit(next, studies, end) for _ in range(count))
        try:
            while (study := ahead.popleft().result()) is not end:
                ahead.append(worker.submit(next, studies, end))
                yield study
        finally:
            worker.shutdown(wait=False, cancel_futures=True)


def report_image_files(
    report: "Pipeline",
    files: "Sequence[FoundImage]",
    model: str,
    batch_size: int = 1,
    max_new_tokens: int | None = 256,
    candidates: int = 1,
    streamer: "BaseStreamer | None" = None,
    finished: int = 0,
    operating_point: str | dict | None = None,
    begins_with: str | None = None,
    impression_of: str | None = None,
    refuse_unfamiliar: bool = False,
    evidence: bool = False,
) -> Generator[dict, None, None]:
    """
    Reports each image file as a study of one view.

    Args:
        report ([`Pipeline`]): As of [`load_reporter`].
        files (`Sequence[FoundImage]`): As of [`find_images`]; read as they are needed.
        model (`str`): The name of the model in the answers.
        batch_size, max_new_tokens, candidates, streamer, finished, begins_with, impression_of,
            operating_point, evidence: As of [`report_studies`].
        refuse_unfamiliar (`bool`, *optional*, defaults to `False`): Leave out the report of an image that is unlike
            the training images.

    Yields:
        `dict`: `image` (the file's name) and `error`, `image` and `refused` (a line), or `image`, `model` and what the
        pipeline answers, as [`review_answer`] completes it; `docs/report.md` describes it all.

    Raises:
        ValueError: for `refuse_unfamiliar` with a model that has no input statistics.
    """
    if refuse_unfamiliar and report.model.config.input_statistics is None:
        raise ValueError(
            f"The model {model!r} cannot tell which images are unfamiliar: `otdrg calibrate MODEL --dataset ...` adds "
            "what it takes."
        )
    total = len(files) + finished
    answers = report_studies(
        report,
        map(_read, files),
        batch_size=batch_size,
        max_new_tokens=max_new_tokens,
        candidates=candidates,
        operating_point=operating_point,
        streamer=streamer,
        sentences=None,
        begins_with=begins_with,
        impression_of=impression_of,
        evidence=evidence,
        description=None if total == 1 else "Reporting",
        unit="image",
        total=total,
        finished=finished,
    )
    for file, answer in zip(files, answers, strict=True):
        row = {"image": file.name}
        if "error" in answer:
            yield row | answer
        elif refuse_unfamiliar and not answer["input"]["familiar"]:
            yield row | {"refused": f"image {file.name!r} is {answer['input']['why']}."}
        else:
            yield {**row, "model": model, **review_answer(answer)}


def report_images(
    images: Sequence[str],
    model: str | None = None,
    max_new_tokens: int = 256,
    batch_size: int = 1,
    device: str | None = None,
    dtype: str | None = None,
) -> Iterator[dict]:
    """
    Loads a model and reports each image as a study of one view.

    Args:
        images (`Sequence[str]`): Paths, URLs, folders or patterns (see [`find_images`]).
        model, device, dtype: As of [`load_reporter`].
        max_new_tokens, batch_size: As of [`report_studies`].

    Yields:
        `dict`: As of [`report_image_files`].
    """
    from otdrg_hf.images.finding import find_images

    files = find_images(images)
    report = load_reporter(model, device, dtype)
    yield from report_image_files(report, files, model_name(model), batch_size, max_new_tokens)


def _read(file: "FoundImage"):
    """The image, or the `ValueError` of one that cannot be read."""
    from otdrg_hf.modeling.image_loading import load_radiograph

    try:
        return load_radiograph(file.location, f"image {file.name!r}")
    except ValueError as error:
        return error
