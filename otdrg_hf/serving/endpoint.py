"""The handler of Hugging Face Inference Endpoints, by the same code as `otdrg serve`."""

from typing import TYPE_CHECKING, Any

from PIL import Image

from otdrg_hf.reporting import load_reporter, model_name
from otdrg_hf.serving.limits import Limits, Refusal
from otdrg_hf.serving.service import ReportService
from otdrg_hf.serving.studies import StudyRequest, parse

if TYPE_CHECKING:
    from transformers import Pipeline


class EndpointHandler:
    """
    Answers requests of an endpoint.

    Args:
        path (`str`, *optional*): The model's folder, as the toolkit gives it.
        report ([`RadiologyReportPipeline`], *optional*): In place of the model in `path`.
    """

    def __init__(self, path: str = "", report: "Pipeline | None" = None):
        self.service = ReportService(report or load_reporter(path or None), model_name(path or None), Limits())

    def __call__(self, data: dict[str, Any]) -> dict | list[dict]:
        """
        Reports a study, or each of a list.

        Args:
            data (`dict`):
                `inputs`: an image (base64, a data URL, or what the toolkit makes of a body of type `image/*`), a study
                as `/v1/reports` takes it, or a list of these. `parameters`, *optional*: further keys of all studies,
                such as `evidence` or `max_new_tokens`.

        Returns:
            `dict` or `list[dict]`: Lines of `otdrg report --json`.

        Raises:
            ValueError: in one line, which the toolkit answers with status 400.
        """
        inputs, parameters = data.get("inputs"), data.get("parameters") or {}
        if not isinstance(parameters, dict):
            raise ValueError("parameters: an object is needed, such as {'max_new_tokens': 100}.")
        try:
            studies = inputs if isinstance(inputs, list) else [inputs]
            started = [self._start(study, parameters) for study in studies]
            rows = [self.service.finish(job, study).row for job, study in started]
        except Refusal as refusal:
            raise ValueError(refusal.message) from None
        return rows if isinstance(inputs, list) else rows[0]

    def _start(self, study: Any, parameters: dict[str, Any]):
        files: dict[int, Image.Image] = {}
        if isinstance(study, Image.Image):
            files, study = {0: study}, ""
        values = study if isinstance(study, dict) else {"images": [study]}
        request = parse(StudyRequest, {**values, **parameters})
        return self.service.start(request, files), request
