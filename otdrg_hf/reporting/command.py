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
    operating_point: str | None = None,
    refuse_unfamiliar: bool = False,
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
        operating_point (`str`, *optional*): As [`parse_operating_point`] reads it.
        refuse_unfamiliar (`bool`, *optional*, defaults to `False`): Leave out the report of an image that is unlike
            the training images; a line on standard error, with `as_json` an object on standard output, says so.
        options: For [`report_image_files`].

    Returns:
        `int`: How many images could not be read.

    Raises:
        ValueError: for `refuse_unfamiliar` with a model that cannot tell.
    """
    options["operating_point"] = parse_operating_point(operating_point)
    files, name = find_images(images), model_name(model)
    if output is None:
        report = load_reporter(model, device, dtype)
        answers = report_image_files(report, files, name, refuse_unfamiliar=refuse_unfamiliar, **options)
        return print_answers(answers, as_json)
    with ResultsFile(output, "image", check=lambda row: _check_run(row, name, **options)) as results:
        _check_names(files)
        remaining = [file for file in files if file.name not in results.finished]
        if not remaining:
            return 0
        report = load_reporter(model, device, dtype)
        done = len(files) - len(remaining)
        options |= {"finished": done, "refuse_unfamiliar": refuse_unfamiliar}
        answers = report_image_files(report, remaining, name, **options)
        return _write_all(answers, results, len(remaining))


def run_report_streaming(
    image: str,
    model: str | None,
    device: str | None,
    dtype: str | None,
    max_new_tokens: int,
    operating_point: str | None = None,
    begins_with: str | None = None,
    impression_of: str | None = None,
) -> int:
    """Prints the report of one image as it is written, then its label states; gives how many could not be read."""
    from transformers import TextStreamer

    point = parse_operating_point(operating_point)
    files = find_images([image])
    if len(files) > 1:
        raise ValueError(f"--stream takes one image, not {len(files)}.")
    report = load_reporter(model, device, dtype)
    print(f"{files[0].name}: {begins_with}" if begins_with else f"{files[0].name}:", end="", flush=True)
    streamer = TextStreamer(report.processor.tokenizer, skip_prompt=True, skip_special_tokens=True)
    options = {"max_new_tokens": max_new_tokens, "streamer": streamer, "operating_point": point}
    options |= {"begins_with": begins_with, "impression_of": impression_of}
    [answer] = report_image_files(report, files, model_name(model), **options)
    if "error" in answer:
        print(flush=True)
        _complain(answer)
        return 1
    print(_states_text(answer))
    return 0


def parse_operating_point(text: str | None) -> str | dict | None:
    """
    An operating point as it is written on a command line: a name, `recall=0.95` or JSON.

    What it means, and whether it is possible, the model has to say.
    """
    if text is None:
        return None
    measure, equals, value = text.partition("=")
    if equals and measure.strip() in ("recall", "precision"):
        try:
            return {measure.strip(): float(value)}
        except ValueError:
            raise ValueError(f"--operating_point {text}: {value!r} is not a number; write {measure}=0.9") from None
    if text.lstrip().startswith("{"):
        try:
            return json.loads(text)
        except ValueError:
            raise ValueError(f'--operating_point {text}: not JSON; write \'{{"Edema": {{"recall": 0.95}}}}\'') from None
    return text


def _check_run(
    row: dict,
    model: str,
    operating_point: str | dict | None = None,
    candidates: int = 1,
    begins_with: str | None = None,
    **unseen,
) -> None:
    """A line that is there already must be of `otdrg report`, by the same model and, as far as it shows, options."""
    if not isinstance(row.get("model"), str):
        raise ValueError("not a line of `otdrg report`; choose another file, or remove that line")
    if row["model"] != model:
        raise ValueError(f"a report by the model {row['model']!r}; choose another file")
    asked = (row.get("operating_point") or {}).get("asked")
    if asked != operating_point:
        at = "without an operating point" if asked is None else f"at the operating point {json.dumps(asked)}"
        raise ValueError(f"a report {at}; choose another file")
    if (count := len(row.get("candidates", [""]))) != candidates:
        raise ValueError(f"a report of {count} candidate{'s' if count > 1 else ''}; choose another file")
    if begins_with and not _words(row["generated_text"]).startswith(_words(begins_with)):
        raise ValueError("a report that begins otherwise; choose another file")


def _words(text: str) -> str:
    return " ".join(text.split())


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
        if ("error" in answer or "refused" in answer) and not as_json:
            _complain(answer)
        else:
            tqdm.write(json.dumps(answer) if as_json else _text(answer))
            sys.stdout.flush()
    return failures


def _write_all(answers: Generator[dict, None, None], results: ResultsFile, total: int) -> int:
    failures = refused = written = 0
    try:
        for answer in answers:
            if "error" in answer or "refused" in answer:
                failures += "error" in answer
                refused += "refused" in answer
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
    if refused:
        print(f"{refused} of {total} images are unlike the training images and were left out.", file=sys.stderr)
    return failures


def _complain(answer: dict) -> None:
    line = f"error: {answer['error']}" if "error" in answer else f"left out: {answer['refused']}"
    tqdm.write(line, file=sys.stderr)


def _text(answer: dict) -> str:
    texts = answer.get("candidates", [answer["generated_text"]])
    others = [f"  or: {text}" for text in texts[1:]]
    return "\n".join([f"{answer['image']}: {texts[0]}", *others, *_sentence_lines(answer), _states_text(answer)])


def _sentence_lines(answer: dict) -> list[str]:
    """Each sentence with the confidence in it, or why there is none."""
    lines = []
    for sentence in answer.get("sentences", ()):
        sure = "  -  " if sentence["confidence"] is None else f"{sentence['confidence']:5.2f}"
        note = "" if sentence["labels"] else "   (about none of the labels)"
        lines.append(f"  {sure}  {sentence['text']}{note}")
    return lines


def _states_text(answer: dict) -> str:
    written = {row["label"]: row["written"] for row in answer["disagreements"]}
    lines = []
    for finding in answer["findings"]:
        label, state = finding["label"], finding["state"]
        if state != "blank" or label in written:
            note = f"   but {written[label]} in the report" if label in written else ""
            lines.append(f"  {label:<28}{state:<10}{finding['score']:.2f}{note}")
    seen = answer.get("input")
    if seen and not seen["familiar"]:
        lines.insert(0, f"  NOT FAMILIAR: {seen['why']} (distance {seen['distance']:.2f}, familiar up to 1)")
    return "\n".join([*lines, ""])
