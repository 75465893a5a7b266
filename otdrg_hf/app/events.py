"""What the page does: each event is a generator of updates, a dict from the name of a part of the page to its value."""

import json
import logging
import threading
from collections.abc import Iterator

from transformers import StoppingCriteria, StoppingCriteriaList, TextIteratorStreamer

from otdrg_hf.app import views
from otdrg_hf.app.study import BALANCED, PageStudy, study_of_phantom, study_of_uploads
from otdrg_hf.labeling import STATES
from otdrg_hf.reporting import label_overrides, review_answer

logger = logging.getLogger(__name__)
CLEARED = {
    "ready": False,
    "message": "",
    "unfamiliar": "",
    "offer": "",
    "report": views.NO_REPORT,
    "labels": views.NO_LABELS,
    "images": views.NO_IMAGES,
}


class PageEvents:
    """
    The events of the page around one model.

    Args:
        report ([`RadiologyReportPipeline`]): Writes the reports.
        model_name (`str`): How the page calls the model; not a path.
    """

    def __init__(self, report, model_name: str):
        self.report, self.model_name = report, model_name

    def upload(self, paths: list[str] | None, operating_point: str | None = None) -> Iterator[dict]:
        """Images were dropped: they replace the study and its report is written, at the point chosen on the page."""
        yield {**CLEARED, "study": None, "message": '<p class="otdrg-hint">Reading ...</p>'}
        try:
            study = study_of_uploads(paths or [])
        except (ValueError, ImportError) as error:  # not a radiograph, or DICOM without pydicom
            # The drop area is emptied: its file is deleted.
            yield {"message": views.error_view(str(error)), "drop": None}
            return
        yield {"message": "", "drop": None}
        if study.images:
            study.operating_point = operating_point or BALANCED
            yield from self._show_and_write(study)

    def example(self, seed: int, operating_point: str | None = None) -> Iterator[dict]:
        """A synthetic phantom was asked for."""
        yield {**CLEARED, "drop": None}
        study = study_of_phantom(seed)
        study.operating_point = operating_point or BALANCED
        yield from self._show_and_write(study)

    def rewrite(self, study: PageStudy | None, choices: str, indication: str, comparison: str) -> Iterator[dict]:
        """
        The report is asked for again, with what the user changed on the page.

        Args:
            study ([`PageStudy`], *optional*): The study on the page.
            choices (`str`): JSON of `states` (given states by label), `views`, `evidence` (the label that is shown) and
                `operating_point` (balanced if empty).
            indication (`str`), comparison (`str`): As typed.
        """
        yield from self._write_anew(study, choices, indication, comparison)

    def resume(self, study: PageStudy | None, choices: str, indication: str, comparison: str) -> Iterator[dict]:
        """
        The edited report is continued from the cursor; arguments as of `rewrite`.

        `choices` also has `draft`: its `text` and the `cursor`, before which it is kept to the letter.
        """
        draft = json.loads(choices)["draft"]
        begins_with, before = draft["text"][: draft["cursor"]], study.written if study is not None else ""
        yield from self._write_anew(study, choices, indication, comparison, begins_with)
        if study is not None and begins_with.strip():
            # What was behind the cursor is not kept: that the text does not mention it says nothing.
            stated = {label: state for label, state in label_overrides(before, begins_with).items() if state != "blank"}
            offered = {label: state for label, state in stated.items() if study.given.get(label) != state}
            yield {"offer": views.offer_view(offered)}

    def read_changes(self, study: PageStudy | None, choices: str) -> dict:
        """The user edited the report: what it now states otherwise is offered as states to give."""
        draft = json.loads(choices)["draft"]
        overrides = label_overrides(study.written, draft["text"]) if study is not None and draft is not None else {}
        return {"offer": views.offer_view(overrides)}

    def _write_anew(
        self, study: PageStudy | None, choices: str, indication: str, comparison: str, begins_with: str = ""
    ) -> Iterator[dict]:
        if study is None:
            yield {"message": views.error_view("There is no image yet: drop one, or draw a synthetic example.")}
            return
        chosen = json.loads(choices)
        study.begins_with = begins_with
        study.given, study.views = dict(chosen["states"]), list(chosen["views"])
        study.indication, study.comparison = indication or "", comparison or ""
        study.operating_point = chosen.get("operating_point") or BALANCED
        draft = chosen.get("draft")
        # What the user wrote is not lost by an error.
        failed = views.editor_view(draft["text"]) if draft else views.NO_REPORT
        yield from self._write(study, chosen.get("evidence"), failed)

    def stop(self, study: PageStudy | None) -> None:
        """Ends the writing at the next word."""
        if study is not None:
            study.stop.set()

    def _show_and_write(self, study: PageStudy) -> Iterator[dict]:
        texts = {"indication": study.indication, "comparison": study.comparison}
        yield {"study": study, "images": views.images_view(study), **texts}
        yield from self._write(study, shown=None)

    def _write(self, study: PageStudy, shown: str | None, failed: str = views.NO_REPORT) -> Iterator[dict]:
        yield {"message": "", "offer": "", "report": views.writing_view(study.begins_with), "writing": True}
        answer = None
        try:
            for written in follow_report(self.report, study):
                if isinstance(written, str):
                    yield {"report": views.writing_view(written)}
                else:
                    answer = review_answer(written)
                    study.written = answer["generated_text"]
        except Exception as error:
            yield {"message": self._explain(error), "report": failed, "writing": False}
            return
        yield {
            "unfamiliar": views.unfamiliar_view(answer.get("input")),
            "report": views.report_view(study, answer, self.model_name),
            "labels": views.labels_view(answer["findings"], study.given, STATES, answer["disagreements"]),
            "images": views.images_view(study, answer, shown),
            "writing": False,
        }

    def _explain(self, error: Exception) -> str:
        if isinstance(error, ValueError):
            return views.error_view(str(error))
        # Only the type: the text of such an error can quote paths or pixels.
        logger.warning("a report could not be written: %s", type(error).__name__)
        if "OutOfMemory" in type(error).__name__ or isinstance(error, MemoryError):
            return views.error_view("Out of memory: use fewer or smaller images, or start with --device cpu.")
        return views.error_view(f"The report could not be written ({type(error).__name__}).")


class _StopWhenSet(StoppingCriteria):
    """Ends generation at the next token once `stop` is set."""

    def __init__(self, stop: threading.Event):
        self.stop = stop

    def __call__(self, input_ids, scores, **kwargs):
        return input_ids.new_full(input_ids.shape[:1], self.stop.is_set(), dtype=bool)


def follow_report(report, study: PageStudy, max_new_tokens: int = 256) -> Iterator[str | dict]:
    """
    Runs the pipeline on one study in a thread and follows what it writes.

    Args:
        report ([`RadiologyReportPipeline`]): Writes.
        study ([`PageStudy`]): Its `stop` ends the writing early; so does closing this generator.
        max_new_tokens (`int`, *optional*, defaults to 256): Bound on the length of the report, in tokens.

    Yields:
        `str`: The text so far, longer each time; last of all the pipeline's answer, a `dict`.

    Raises:
        Whatever the pipeline raises.
    """
    streamer = TextIteratorStreamer(report.processor.tokenizer, skip_prompt=True, skip_special_tokens=True)
    options = {"stopping_criteria": StoppingCriteriaList([_StopWhenSet(study.stop)])}
    if (report.model.generation_config.num_beams or 1) == 1:  # beams have no text until the last of them ends
        options["streamer"] = streamer
    # The balanced point is how a report is written without one.
    chosen = {} if study.operating_point == BALANCED else {"operating_point": study.operating_point}
    outcome = {}

    def write():
        try:
            outcome["answer"] = report(
                study.inputs(), evidence=True, max_new_tokens=max_new_tokens, generate_kwargs=options, **chosen
            )
        except Exception as error:
            outcome["error"] = error
        finally:
            streamer.end()

    writer = threading.Thread(target=write, daemon=True)
    study.stop.clear()
    writer.start()
    text = study.begins_with
    try:
        for piece in streamer:
            text += piece
            if piece:
                yield text.strip()
    except GeneratorExit:  # the page was closed
        study.stop.set()
        raise
    finally:
        writer.join()
    if "error" in outcome:
        raise outcome["error"]
    yield outcome["answer"]
