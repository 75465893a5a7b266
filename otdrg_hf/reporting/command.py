"""`otdrg report`: text or JSON lines on the terminal, or a file that a later run resumes."""

import json
import sys
from collections import Counter
from collections.abc import Generator, Iterable, Sequence
from pathlib import Path

from tqdm.auto import tqdm

from otdrg_hf.images.finding import FoundImage, find_images
from otdrg_hf.reporting.loading import load_reporter, model_name
from otdrg_hf.reporting.loop import report_image_files
from otdrg_hf.reporting.results_file import ResultsFile


def run_report(
    images: Iterable[str],
    output: Path | None = None,
    model: str | None = None,
    device: str | None = None,
    dtype: str | None = None,
    as_json: bool = False,
    **options,
) -> int:
    """
    Reports image files, on standard output or, with `output`, in a file of JSON lines.

    Args:
        images (`Iterable[str]`): As [`find_images`] takes them.
        output (`Path`, *optional*): JSONL to write or resume. Images that cannot be read get no line: they are named on
            standard error, and tried again by the next run.
        model, device, dtype: As of [`load_reporter`].
        as_json (`bool`, *optional*, defaults to `False`): Print JSON lines instead of text.
        options: For [`report_image_files`].

    Returns:
        `int`: How many images could not be read.
    """
    files, name = find_images(images), model_name(model)
    if output is None:
        answers = report_image_files(load_reporter(model, device, dtype), files, name, **options)
        return print_answers(answers, as_json)
    with ResultsFile(output, "image", check=lambda row: _check_model(row, name)) as results:
        _check_names(files)
        remaining = [file for file in files if file.name not in results.finished]
        if not remaining:
            return 0
        report = load_reporter(model, device, dtype)
        done = len(files) - len(remaining)
        answers = report_image_files(report, remaining, name, finished=done, **options)
        return _write_all(answers, results, len(remaining))


def run_report_streaming(
    image: str, model: str | None, device: str | None, dtype: str | None, max_new_tokens: int
) -> int:
    """Prints the report of one image as it is written, then its label states; gives how many could not be read."""
    from transformers import TextStreamer

    files = find_images([image])
    if len(files) > 1:
        raise ValueError(f"--stream takes one image, not {len(files)}.")
    report = load_reporter(model, device, dtype)
    print(f"{files[0].name}:", end="", flush=True)
    streamer = TextStreamer(report.processor.tokenizer, skip_prompt=True, skip_special_tokens=True)
    options = {"max_new_tokens": max_new_tokens, "streamer": streamer}
    [answer] = report_image_files(report, files, model_name(model), **options)
    if "error" in answer:
        print(flush=True)
        _complain(answer)
        return 1
    print(_states_text(answer))
    return 0


def _check_model(row: dict, model: str) -> None:
    """A line that is there already must be of `otdrg report`, by the same model."""
    if not isinstance(row.get("model"), str):
        raise ValueError("not a line of `otdrg report`; choose another file, or remove that line")
    if row["model"] != model:
        raise ValueError(f"a report by the model {row['model']!r}; choose another file")


def _check_names(files: Sequence[FoundImage]) -> None:
    """A file of results tells images apart by their names."""
    name, count = Counter(file.name for file in files).most_common(1)[0] if files else ("", 1)
    if count > 1:
        raise ValueError(
            f"{count} images are called {name!r}: give the folder that holds them all, which names them by their path "
            "inside it."
        )


def print_answers(answers: Iterable[dict], as_json: bool) -> int:
    """Prints answers as they come, as text or JSON lines; gives how many images could not be read."""
    failures = 0
    for answer in answers:
        failures += "error" in answer
        if "error" in answer and not as_json:
            _complain(answer)
        else:
            tqdm.write(json.dumps(answer) if as_json else _text(answer))
            sys.stdout.flush()
    return failures


def _write_all(answers: Generator[dict, None, None], results: ResultsFile, total: int) -> int:
    failures = written = 0
    try:
        for answer in answers:
            if "error" in answer:
                failures += 1
                _complain(answer)
            else:
                results.append(answer)
                written += 1
    except KeyboardInterrupt:
        answers.close()  # and with it the progress bar, which would write over what follows
        left = f"{total - written} of {total} images are left"
        print(f"\ninterrupted: {left}; the same command resumes here.", file=sys.stderr)
        raise
    if failures:
        print(f"{failures} of {total} images could not be read.", file=sys.stderr)
    return failures


def _complain(answer: dict) -> None:
    tqdm.write(f"error: {answer['error']}", file=sys.stderr)


def _text(answer: dict) -> str:
    texts = answer.get("candidates", [answer["generated_text"]])
    return "\n".join([f"{answer['image']}: {texts[0]}", *(f"  or: {text}" for text in texts[1:]), _states_text(answer)])


def _states_text(answer: dict) -> str:
    written = {row["label"]: row["written"] for row in answer["disagreements"]}
    lines = []
    for finding in answer["findings"]:
        label, state = finding["label"], finding["state"]
        if state != "blank" or label in written:
            note = f"   but {written[label]} in the report" if label in written else ""
            lines.append(f"  {label:<28}{state:<10}{finding['score']:.2f}{note}")
    return "\n".join([*lines, ""])
