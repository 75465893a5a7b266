# Copyright 2026 The otdrg-hf authors. Licensed under the Apache License, Version 2.0.
"""`pipeline("radiology-report")`: from a study to its report, the disease states behind it and where each was seen."""

import re
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F
from transformers import GenerationConfig, Pipeline
from transformers.utils import logging

from .configuration_otdrg import STATES
from .disease_states_otdrg import POSITIVE, UNCERTAIN, plausible_states, thresholds_at
from .image_loading import load_views, view_in
from .vision_otdrg import evidence_map

logger = logging.get_logger(__name__)

TASK = "radiology-report"
STUDY_KEYS = ("images", "views", "indication", "comparison", "disease_labels")
UNTRAINED = (
    "The LLM of this model was not trained on reports: what it writes means nothing, whatever it says. Train the stage "
    "'finetune' or 'joint'."
)
_HEADER = re.compile(r"(?<!\w)(findings?|impressions?)[ \t]*:", re.IGNORECASE)
CUSTOM_PIPELINES = {
    TASK: {
        "impl": "pipeline_otdrg.RadiologyReportPipeline",
        "pt": ["AutoModelForImageTextToText"],
        "type": "multimodal",
    }
}


class RadiologyReportPipeline(Pipeline):
    r"""
    Radiology report generation with [`OTDRGForConditionalGeneration`].

    Example:

    ```python
    >>> import otdrg_hf
    >>> from transformers import pipeline

    >>> report = pipeline("radiology-report", model="org/otdrg")
    >>> report("chest.png")["generated_text"]
    >>> report({"images": ["pa.png", "lateral.png"], "views": ["frontal", "lateral"], "indication": "Cough."})
    ```
    """

    _load_processor = True
    _load_image_processor = False
    _load_feature_extractor = False
    _load_tokenizer = False
    _pipeline_calls_generate = True
    _default_generation_config = GenerationConfig(max_new_tokens=256)

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        if self.model.config.notice:
            logger.warning(self.model.config.notice)
        if not self.model.config.trained_on_reports:
            logger.warning(UNTRAINED)
        if self.processor.context_length is None:  # a folder from before processors knew it
            self.processor.context_length = self.model.config.context_length

    def __call__(self, study, **kwargs):
        r"""
        Writes the report of a study, or of each study of a list.

        Args:
            study:
                An image (PIL, path, URL, also `data:`, bytes, open file, array; files may be DICOM), or a dict with
                `images` (a list) and, optionally, `views` (`"frontal"`, `"lateral"` or `"unknown"` per image; by
                default what DICOM files say), `indication`, `comparison` (the earlier report) and `disease_labels`
                (`{"Pneumothorax": "positive"}`: a known state that overrides the prediction; the report is then a
                revision of the one without it, which is written first and takes as long again, see `generate`).
                A list, generator or dataset of these, or of lists of views, is a batch of studies; generators and
                datasets are answered as they are read.
            evidence (`bool`, *optional*, defaults to `False`): Add heat maps.
            operating_point (`str` or `dict`, *optional*):
                What to choose between missing and overcalling: `"balanced"` (the thresholds as without a point),
                `"sensitive"`, `"specific"`, `{"recall": 0.95}`, `{"precision": 0.9}`, or one of these by label, as in
                `{"Pneumothorax": {"recall": 0.95}}` (see [`thresholds_at`]). The report takes positive findings at
                their word: it is a revision of the one without a point, which takes as long again. What a label cannot
                reach is warned of once, and in the answer.
            max_new_tokens (`int`, *optional*, defaults to 256):
                Bound on the length of the report, in tokens. It is lowered, with a warning, to what the prompt leaves
                of the LLM's context.
            streamer (`BaseStreamer`, *optional*): Gets the report of one study as it is written.
            generate_kwargs (`dict`, *optional*): Further arguments of `generate`.
            seed (`int`, *optional*): Of the samples, with `do_sample`; each batch is sampled from this seed anew, so
                that a study's reports do not depend on the batches before it.
            batch_size (`int`, *optional*, defaults to 1): Studies that go through the model together.

        Returns:
            A `dict`, or a list of them, with

            - **generated_text** (`str`): The report; **candidates** (`list[str]`) if several were asked for.
            - **sections** (`dict[str, str]`): `findings` and `impression`, where the report has both headers.
            - **findings** (`list[dict]`): For each label `label`, `state` and `score`, the probability of positive.
              With conformal sets also **plausible** (`list[str]`), the states among which the true one should be.
            - **operating_point** (`dict`), if one was given: `asked`, and `unreached`, for each label that cannot reach
              it `asked` and `reached` on validation.
            - **evidence** (`dict[str, list[np.ndarray]]`, with `evidence=True`): For each label that is positive or
              uncertain a map per view, float32 `[H, W]` of that image, from 0 to 1, of where it was seen.

        Raises:
            ValueError: for a study that cannot be read, naming the image, key, label or state at fault, or one whose
                prompt leaves no room for a report.
        """
        return super().__call__(study, **kwargs)

    def _sanitize_parameters(
        self,
        evidence=None,
        max_new_tokens=None,
        streamer=None,
        generate_kwargs=None,
        seed=None,
        operating_point=None,
        **unknown,
    ):
        if unknown:
            raise ValueError(f"Unknown argument {next(iter(unknown))!r}; what belongs to a study goes into its dict.")
        forward: dict[str, Any] = {"generate_kwargs": dict(generate_kwargs or {})}
        if max_new_tokens is not None:
            forward["generate_kwargs"]["max_new_tokens"] = max_new_tokens
        if streamer is not None:
            forward["generate_kwargs"]["streamer"] = streamer
        if evidence is not None:
            forward["evidence"] = evidence
        if seed is not None:
            forward["seed"] = seed
        postprocess: dict[str, Any] = {}
        if operating_point is not None:
            forward["positive_thresholds"], unreached = thresholds_at(operating_point, self.model.config)
            postprocess["operating_point"] = {"asked": operating_point, "unreached": unreached}
            for label, point in unreached.items():
                logger.warning_once(_unreached_text(label, point))
        return {}, forward, postprocess

    def preprocess(self, study) -> dict:
        study = study if isinstance(study, dict) else {"images": study}
        unknown = set(study) - set(STUDY_KEYS)
        if unknown:
            raise ValueError(f"A study has no {sorted(unknown)[0]!r}; its keys are {', '.join(STUDY_KEYS)}.")
        images = study.get("images")
        images = images if isinstance(images, (list, tuple)) else [images]
        if len(images) == 0 or any(image is None for image in images):
            raise ValueError("A study needs at least one image under 'images'.")
        labels = study.get("disease_labels")
        pictures = load_views(images)
        views = study.get("views") or [view_in(picture) for picture in pictures]
        prompt = self.processor.build_prompt(len(images), views, study.get("indication"), study.get("comparison"))
        inputs = self.processor([pictures], text=[prompt], disease_labels=labels or {})
        # One opaque entry: batches of studies with different numbers of views are padded in `_forward`.
        inputs = {key: value[0] for key, value in inputs.items()}
        return {"study": {**inputs, "sizes": [(picture.height, picture.width) for picture in pictures]}}

    def _forward(
        self,
        model_inputs: dict,
        generate_kwargs: dict,
        evidence: bool = False,
        seed: int | None = None,
        positive_thresholds: list[float] | None = None,
    ) -> dict:
        studies = model_inputs["study"]
        studies = studies if isinstance(studies, list) else [studies]
        batch = self._pad(studies)
        generate_kwargs = self._within_context(batch, generate_kwargs)
        features = self.model.get_image_features(
            batch["pixel_values"].to(self.model.dtype),
            batch["view_mask"],
            batch["disease_labels"],
            positive_thresholds=positive_thresholds,
            return_dict=True,
        )
        with torch.random.fork_rng(enabled=seed is not None):
            if seed is not None:
                torch.manual_seed(seed)
            sequences = self.model.generate(
                input_ids=batch["input_ids"],
                attention_mask=batch["attention_mask"],
                mm_encoder_outputs={"image": features},
                **self._prepare_generate_kwargs(generate_kwargs),
            )
        sequences = getattr(sequences, "sequences", sequences)  # with `return_dict_in_generate`
        texts = self.processor.batch_decode(sequences[:, batch["input_ids"].shape[1] :], skip_special_tokens=True)
        per_study = len(texts) // len(studies)
        scores = features.disease_logits.softmax(-1)[..., POSITIVE]
        plausible = plausible_states(features.disease_logits, self.model.config)  # [B, m, states]
        answers = []
        for index, study in enumerate(studies):
            answers.append(
                {
                    "texts": texts[index * per_study : (index + 1) * per_study],
                    "states": features.disease_states[index].tolist(),
                    "scores": scores[index].tolist(),
                    "plausible": None if plausible is None else plausible[index].tolist(),
                    "evidence": features.evidence[index].float().cpu() if evidence else None,
                    "sizes": study["sizes"],
                }
            )
        return {"answers": answers}

    def _within_context(self, batch: dict[str, torch.Tensor], generate_kwargs: dict) -> dict:
        """`generate_kwargs` with which prompt and report fit into the LLM's context."""
        context = self.model.config.context_length
        if context is None:
            return generate_kwargs
        prompt = int(batch["attention_mask"].sum(-1).max())
        if prompt >= context:
            raise ValueError(
                f"The prompt takes {prompt} tokens and leaves no room for a report in the LLM's context of {context}: "
                "give fewer views or a shorter text."
            )
        options = self._get_set_generation_params(self._prepare_generate_kwargs(generate_kwargs))
        wanted = options.get("max_new_tokens") or options.get("max_length", 0) - batch["input_ids"].shape[1]
        if prompt + wanted <= context:
            return generate_kwargs
        logger.warning(
            f"max_new_tokens is {context - prompt} instead of {wanted}: the prompt takes {prompt} tokens of the LLM's "
            f"context of {context}."
        )
        return {**generate_kwargs, "max_new_tokens": context - prompt}

    def _pad(self, studies: list[dict]) -> dict[str, torch.Tensor]:
        rows = [{key: study[key] for key in ("input_ids", "attention_mask")} for study in studies]
        batch = dict(self.processor.tokenizer.pad(rows, padding_side="left", return_tensors="pt"))
        views = max(len(study["pixel_values"]) for study in studies)
        for key in ("pixel_values", "view_mask"):
            padded = [
                F.pad(study[key], (0, 0) * (study[key].dim() - 1) + (0, views - len(study[key]))) for study in studies
            ]
            batch[key] = torch.stack(padded)  # [B, V, ...]
        batch["disease_labels"] = torch.stack([study["disease_labels"] for study in studies])
        return self._ensure_tensor_on_device(batch, device=self.device)

    def postprocess(self, model_outputs: dict, operating_point: dict | None = None) -> dict:
        answer = model_outputs["answers"]
        answer = answer[0] if isinstance(answer, list) else answer
        texts = [text.strip() for text in answer["texts"]]
        config = self.model.config
        findings = [
            {"label": label, "state": STATES[state], "score": round(score, 4)}
            for label, state, score in zip(config.label_names, answer["states"], answer["scores"], strict=True)
        ]
        for finding, included in zip(findings, answer["plausible"] or (), strict=False):
            finding["plausible"] = [state for state, is_in in zip(STATES, included, strict=True) if is_in]
        result = {"generated_text": texts[0], "findings": findings}
        if operating_point is not None:
            result["operating_point"] = operating_point
        if sections := report_sections(texts[0]):
            result["sections"] = sections
        if len(texts) > 1:
            result["candidates"] = texts
        if answer["evidence"] is not None:
            result["evidence"] = self._evidence(answer)
        return result

    def _evidence(self, answer: dict) -> dict[str, list[np.ndarray]]:
        config = self.model.config
        views = len(answer["sizes"])
        rows, columns = config.image_grid
        maps = answer["evidence"][: views * rows * columns].T.unflatten(1, (views, rows, columns))  # [m, V, h, w]
        evidence = {}
        for index, (label, state) in enumerate(zip(config.label_names, answer["states"], strict=True)):
            if state in (POSITIVE, UNCERTAIN):
                of_label = maps[index] / maps[index].max().clamp(min=1e-12)
                evidence[label] = [
                    evidence_map(view, size, config.patch_offset).numpy()
                    for view, size in zip(of_label, answer["sizes"], strict=True)
                ]
        return evidence

    def save_pretrained(self, save_directory, **kwargs):
        """Saves model and processor with the code that runs both where otdrg_hf is not installed."""
        self.model.save_pretrained(save_directory, **kwargs)
        self.processor.save_pretrained(save_directory, **kwargs)


def _unreached_text(label: str, point: dict[str, Any]) -> str:
    reached = point["reached"]
    if reached is None:
        return f"The operating point of {label} stays balanced: there was no study with it to fit a curve on."
    [(measure, value)] = point["asked"].items()
    return f"{label} cannot reach a {measure} of {value:g}: on validation it got to {reached:g}, which is what is used."


def report_sections(report: str) -> dict[str, str] | None:
    """
    The two sections of a report by name.

    Args:
        report (`str`): A report, such as `"Findings: Clear lungs. Impression: Normal."`.

    Returns:
        `{"findings": str, "impression": str}`, or `None` unless it has each header once, in this order, before anything
        else, with text below it.
    """
    headers = list(_HEADER.finditer(report))
    if [header[1].lower().rstrip("s") for header in headers] != ["finding", "impression"]:
        return None
    first, second = headers
    findings, impression = report[first.end() : second.start()].strip(), report[second.end() :].strip()
    if report[: first.start()].strip() or not findings or not impression:
        return None
    return {"findings": findings, "impression": impression}


__all__ = ["RadiologyReportPipeline"]
