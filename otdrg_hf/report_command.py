"""What `otdrg report` does: text or JSON lines on the terminal, or a file that a later run goes on with."""

import json
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from tqdm.auto import tqdm
from transformers import TextStreamer

from otdrg_hf.images.finding import find_images as find_films
from otdrg_hf.report_file import ReportFile
from otdrg_hf.reporting import load_reporter, model_name, report_films


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
    Reports films, on standard output or, with `output`, in a file of JSON lines.

    Args:
        images (`Iterable[str]`): What [`find_films`] takes.
        output (`Path`, *optional*): JSONL to write or go on with. Films that cannot be read get no line: they are named
            on standard error, and tried again by the next run.
        model, device, dtype: As of [`load_reporter`].
        as_json (`bool`, *optional*, defaults to `False`): Print JSON lines instead of text.
        options: For [`report_films`].

    Returns:
        `int`: How many films could not be read.
    """
    films = find_films(images)
    if output is None:
        answers = report_films(load_reporter(model, device, dtype), films, model_name(model), **options)
        return _print_all(answers, as_json)
    file = ReportFile(output, model_name(model))
    try:
        remaining = file.remaining(films)
        if not remaining:
            return 0
        report = load_reporter(model, device, dtype)
        done = len(films) - len(remaining)
        return _write_all(report_films(report, remaining, file.model, finished=done, **options), file, len(remaining))
    finally:
        file.close()


def stream_report(image: str, model: str | None, device: str | None, dtype: str | None, max_new_tokens: int) -> int:
    """Prints the report of one film as it is written, then its label states; gives how many could not be read."""
    films = find_films([image])
    if len(films) > 1:
        raise ValueError(f"--stream takes one film, not {len(films)}.")
    report = load_reporter(model, device, dtype)
    print(f"{films[0].name}:", end="", flush=True)
    streamer = TextStreamer(report.processor.tokenizer, skip_prompt=True, skip_special_tokens=True)
    [answer] = report_films(report, films, model_name(model), max_new_tokens=max_new_tokens, streamer=streamer)
    if "error" in answer:
        print(flush=True)
        _complain(answer)
        return 1
    print(_states_text(answer))
    return 0


def _print_all(answers: Iterator[dict], as_json: bool) -> int:
    failures = 0
    for answer in answers:
        failures += "error" in answer
        if "error" in answer and not as_json:
            _complain(answer)
        else:
            tqdm.write(json.dumps(answer) if as_json else _text(answer))
            sys.stdout.flush()
    return failures


def _write_all(answers: Iterator[dict], file: ReportFile, total: int) -> int:
    failures = written = 0
    try:
        for answer in answers:
            if "error" in answer:
                failures += 1
                _complain(answer)
            else:
                file.write(answer)
                written += 1
    except KeyboardInterrupt:
        left = f"{total - written} of {total} films are left"
        print(f"\ninterrupted: {left}; the same command goes on from here.", file=sys.stderr)
        raise
    if failures:
        print(f"{failures} of {total} films could not be read.", file=sys.stderr)
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
