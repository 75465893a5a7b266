"""`otdrg rexrank`: predictions for a file of ReXrank's form, checked and scored, or the files of a submission."""

import hashlib
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import fmean

from otdrg_hf.evaluation.rexrank.leaderboard_file import (
    RUN_SUFFIX,
    SECTIONS,
    LeaderboardFile,
    at_fault,
    check_images,
    counted,
    read_inputs,
    read_leaderboard_file,
    reference,
    section_text,
    write_predictions,
)
from otdrg_hf.evaluation.rexrank.submission import write_submission
from otdrg_hf.files import write_json
from otdrg_hf.metrics.radeval_adapter import check_radeval
from otdrg_hf.metrics.rexrank import RADCLIQ_BERTSCORE, rexrank_bleu_2, rexrank_radcliq

SCORES_FILE = "scores.json"
_WAY_OUT = "give another OUTPUT.json, or delete that folder to start again"


def run_rexrank(
    input_json: Path | None,
    output_json: Path | None,
    img_root_dir: Path | None = None,
    *,
    model: str | None = None,
    sections: str = "findings",
    submission: Path | None = None,
    radcliq: bool = False,
    batch_size: int = 8,
    max_new_tokens: int = 256,
    device: str | None = None,
    as_json: bool = False,
) -> None:
    """
    Writes predictions for the leaderboard and prints their scores, or writes a submission.

    Args:
        input_json, output_json (`Path`): A file of ReXrank's form, and the one that gets `model_prediction`.
        img_root_dir (`Path`): Where the images of the file are.
        model (`str`, *optional*): Folder or Hub id; the bundled demo model by default.
        sections (`str`): The board: `"findings"` or `"findings_impression"`.
        submission (`Path`, *optional*): A folder to write a submission to; nothing else is done then.
        radcliq (`bool`): RadCliQ-v1 as well, by radeval.
        batch_size, max_new_tokens, device: Of the pipeline.
        as_json (`bool`): Print the scores as JSON.

    Raises:
        ValueError: for options that do not go together, and input that cannot be used.
        ImportError: if RadCliQ is asked for without radeval.
    """
    if sections not in SECTIONS:
        raise ValueError(f"unknown sections {sections!r}; give one of {', '.join(SECTIONS)}")
    if submission is not None:
        if input_json is not None or img_root_dir is not None:
            raise ValueError("--submission writes files for the leaderboard and takes no INPUT.json or --img_root_dir")
        for path in write_submission(submission, model, sections):
            print(f"wrote {path}")
        return
    if input_json is None or output_json is None or img_root_dir is None:
        raise ValueError("give INPUT.json, OUTPUT.json and --img_root_dir, or --submission DIR")
    if radcliq:
        check_radeval(("radcliq",))
    file = read_leaderboard_file(input_json)
    check_images(file, img_root_dir)
    _check_output(input_json, output_json)
    options = {"batch_size": batch_size, "max_new_tokens": max_new_tokens, "device": device}
    predictions = predict(file, img_root_dir, run_folder(output_json), model, sections, **options)
    warnings = file.warnings + write_predictions(output_json, file, predictions)
    scores, notes = score(file, predictions, sections, radcliq)
    write_json(run_folder(output_json) / SCORES_FILE, scores, indent=2)
    for warning in [*warnings, *notes]:
        print(f"warning: {warning}", file=sys.stderr)
    print(json.dumps(scores) if as_json else _text(output_json, scores))


def run_folder(output_json: Path) -> Path:
    """Where predictions are kept as they are made: an interrupted run resumes there, `otdrg evaluate` can read it."""
    return output_json.with_name(output_json.name + RUN_SUFFIX)


def predict(
    file: LeaderboardFile,
    img_root_dir: Path,
    folder: Path,
    model: str | None,
    sections: str,
    *,
    batch_size: int,
    max_new_tokens: int,
    device: str | None,
) -> dict[str, str]:
    """
    A prediction for each study, as `predictions.jsonl` in `folder` gets them, batch by batch.

    Raises:
        ValueError: for a folder of another model, file or setting, and studies that cannot be read.
    """
    from otdrg_hf.reporting.loading import load_reporter, plain_name, weights_digest
    from otdrg_hf.reporting.predictions import open_predictions
    from otdrg_hf.reporting.results_file import read_results
    from otdrg_hf.reporting.split import append_reports, generation_config

    report = load_reporter(model, device)
    settings = {
        "model": plain_name(model) if model else "bundled demo model",
        "weights": weights_digest(report.model),
        "dtype": str(report.model.dtype).removeprefix("torch."),
        "dataset": f"{file.name} of ReXrank's form",
        "split": "as given",
        "entries": f"sha256 {hashlib.sha256(json.dumps(file.entries).encode()).hexdigest()[:16]}",
        "section": sections,
        "max_new_tokens": max_new_tokens,
        "generation_config": generation_config(report.model),
        "sampling": False,
        "labels": "predicted",
    }
    entries, unreadable = list(file.entries.items()), {}

    def studies(indices: Sequence[int]) -> Iterator[dict | ValueError]:
        return (_load(entries[index], img_root_dir) for index in indices)

    def row(key: str, answer: dict) -> dict | None:
        if "error" in answer:
            unreadable[key] = answer["error"]
            return None
        text = prediction_text(answer, sections)
        return {"id": key, "generated_text": text, "reference": reference(file.entries[key], sections)}

    with open_predictions(folder, settings, way_out=_WAY_OUT) as results:
        limits = {"batch_size": batch_size, "max_new_tokens": max_new_tokens}
        append_reports(report, results, list(file.entries), studies, row, **limits)
    if unreadable:
        key, reason = next(iter(unreadable.items()))
        raise ValueError(
            f"studies that cannot be read: {counted(list(unreadable), len(entries))} ({reason}); no file was written, "
            "the same command resumes once they can be"
        )
    return {line["id"]: line["generated_text"] for line in read_results(results.path, "id")}


def prediction_text(answer: dict, sections: str) -> str:
    """The text for a board: the findings alone, or both sections under their headers, where the report has headers."""
    parts = answer.get("sections")
    if parts is None:
        return answer["generated_text"].strip()
    if sections == "findings":
        return parts["findings"].strip()
    return f"Findings: {parts['findings'].strip()} Impression: {parts['impression'].strip()}"


def score(
    file: LeaderboardFile, predictions: dict[str, str], sections: str, radcliq: bool = False
) -> tuple[dict, list[str]]:
    """
    The leaderboard's scores of predictions that there are references for.

    Returns:
        `tuple[dict, list[str]]`: the scores, with the number of studies and the ids that were left out, and what is to
        be said of them.
    """
    references = {key: reference(entry, sections) for key, entry in file.entries.items()}
    kept = [key for key, text in references.items() if text]
    left_out = [key for key, text in references.items() if not text]
    notes = []
    if left_out:
        notes.append(f"without findings to compare with, left out of the scores: {counted(left_out, len(references))}")
    if sections != "findings":
        for name in ("findings", "impression"):
            if absent := at_fault(file.entries, lambda entry: not section_text(entry, name)):  # noqa: B023
                notes.append(f"scored with None as their {name}, as ReXrank does: {counted(absent, len(references))}")
    scores: dict = {"sections": sections, "studies": len(references), "scored": len(kept), "left_out": left_out}
    if not kept:
        return {**scores, "bleu_2": None, "bleu_2_unsmoothed": None}, notes
    pair = [predictions[key] for key in kept], [references[key] for key in kept]
    scores["bleu_2"] = fmean(rexrank_bleu_2(*pair))
    scores["bleu_2_unsmoothed"] = fmean(rexrank_bleu_2(*pair, smoothed=False))
    if radcliq:
        try:
            scores["radcliq_v1"] = fmean(rexrank_radcliq(*pair))
            scores["radcliq_v1_inverse"] = 1 / scores["radcliq_v1"]
        except (ImportError, OSError) as error:
            scores["radcliq_v1"] = None
            notes.append(f"RadCliQ-v1 was not computed: {error}")
        scores["radcliq_v1_bertscore"] = RADCLIQ_BERTSCORE
    return scores, notes


def _load(item: tuple[str, dict], img_root_dir: Path) -> dict | ValueError:
    from otdrg_hf.modeling.image_loading import load_radiograph

    key, entry = item
    inputs = read_inputs(entry, img_root_dir)
    try:
        images = [load_radiograph(path, f"an image of {key!r}") for path in inputs["images"]]
    except ValueError as error:
        return error
    return {**inputs, "images": images}


def _check_output(input_json: Path, output_json: Path) -> None:
    if not output_json.absolute().parent.is_dir():
        raise FileNotFoundError(f"the folder for {output_json.name} does not exist; make it first")
    if output_json.exists() and (not output_json.is_file() or output_json.samefile(input_json)):
        raise ValueError(f"{output_json.name} cannot be written: give another name")
    if output_json.exists() and not run_folder(output_json).is_dir():
        raise ValueError(f"{output_json.name} is there already: delete it, or give another name")


def _text(output_json: Path, scores: dict) -> str:
    lines = [f"wrote {output_json}: {scores['studies']} predictions, checked ({scores['sections']})"]
    number = f"{scores['scored']} of {scores['studies']} studies"
    if scores["bleu_2"] is not None:
        lines.append(f"BLEU-2 {scores['bleu_2']:.4f}, as ReXrank has it ({number})")
        lines.append(f"BLEU-2 {scores['bleu_2_unsmoothed']:.4f}, unsmoothed")
    if scores.get("radcliq_v1") is not None:
        lines.append(
            f"RadCliQ-v1 {scores['radcliq_v1']:.4f}, 1/RadCliQ-v1 {scores['radcliq_v1_inverse']:.4f} "
            f"(BERTScore: {RADCLIQ_BERTSCORE})"
        )
    return "\n".join(lines)
