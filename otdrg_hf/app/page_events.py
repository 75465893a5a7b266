"""What the page does: each event is a generator of updates, a dict from the name of a part of the page to its value."""

import json
import logging
from collections.abc import Iterator

from otdrg_hf.reporting import review_answer

from . import film_view, label_table, report_view
from .film_study import FilmStudy, study_of_phantom, study_of_uploads
from .report_stream import stream_report

logger = logging.getLogger(__name__)
CLEARED = {
    "ready": False,
    "message": "",
    "report": report_view.EMPTY,
    "labels": label_table.EMPTY,
    "films": film_view.EMPTY,
}


class PageEvents:
    """
    The events of the page around one model.

    Args:
        report ([`RadiologyReportPipeline`]): Writes the reports.
        model_name (`str`): How the page calls the model; no path.
    """

    def __init__(self, report, model_name: str):
        self.report, self.model_name = report, model_name

    def upload(self, paths: list[str] | None) -> Iterator[dict]:
        """Films were dropped: they replace the study and its report is written."""
        yield {**CLEARED, "study": None, "message": '<p class="otdrg-hint">Reading ...</p>'}
        try:
            study = study_of_uploads(paths or [])
        except (ValueError, ImportError) as error:  # no radiograph, or DICOM without pydicom
            # The drop area is emptied: its file is gone.
            yield {"message": report_view.error_view(str(error)), "drop": None}
            return
        yield {"message": "", "drop": None}
        if study.films:
            yield from self._show_and_write(study)

    def example(self, seed: int) -> Iterator[dict]:
        """A synthetic phantom was asked for."""
        yield {**CLEARED, "drop": None}
        yield from self._show_and_write(study_of_phantom(seed))

    def rewrite(self, study: FilmStudy | None, choices: str, indication: str, comparison: str) -> Iterator[dict]:
        """
        The report is asked for again, with what the user changed on the page.

        Args:
            study ([`FilmStudy`], *optional*): The study on the page.
            choices (`str`): JSON of `states` (given states by label), `views` and `evidence` (the label that is shown).
            indication (`str`), comparison (`str`): As typed.
        """
        if study is None:
            yield {"message": report_view.error_view("There is no film yet: drop one, or draw a synthetic example.")}
            return
        chosen = json.loads(choices)
        study.given, study.views = dict(chosen["states"]), list(chosen["views"])
        study.indication, study.comparison = indication or "", comparison or ""
        yield from self._write(study, chosen.get("evidence"))

    def stop(self, study: FilmStudy | None) -> None:
        """Ends the writing at the next word."""
        if study is not None:
            study.stop.set()

    def _show_and_write(self, study: FilmStudy) -> Iterator[dict]:
        texts = {"indication": study.indication, "comparison": study.comparison}
        yield {"study": study, "films": film_view.film_view(study), **texts}
        yield from self._write(study, shown=None)

    def _write(self, study: FilmStudy, shown: str | None) -> Iterator[dict]:
        yield {"message": "", "report": report_view.writing_view(""), "writing": True}
        answer = None
        try:
            for written in stream_report(self.report, study):
                if isinstance(written, str):
                    yield {"report": report_view.writing_view(written)}
                else:
                    answer = review_answer(written)
        except Exception as error:
            yield {"message": self._explain(error), "report": report_view.EMPTY, "writing": False}
            return
        states = self.report.model.config.label_states
        yield {
            "report": report_view.report_view(study, answer, self.model_name),
            "labels": label_table.label_table(answer["findings"], study.given, states, answer["disagreements"]),
            "films": film_view.film_view(study, answer, shown),
            "writing": False,
        }

    def _explain(self, error: Exception) -> str:
        if isinstance(error, ValueError):
            return report_view.error_view(str(error))
        # Only the kind: the text of such an error can quote paths or pixels.
        logger.warning("a report could not be written: %s", type(error).__name__)
        if "OutOfMemory" in type(error).__name__ or isinstance(error, MemoryError):
            return report_view.error_view("Out of memory: use fewer or smaller films, or start with --device cpu.")
        return report_view.error_view(f"The report could not be written ({type(error).__name__}).")
