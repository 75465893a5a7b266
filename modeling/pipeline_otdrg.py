# Copyright 2026 The otdrg-hf authors. Licensed under the Apache License, Version 2.0.
"""`pipeline("radiology-report")`: from a study to its report, the disease states behind it and where each was seen."""

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch.nn import functional as F
from transformers import GenerationConfig, Pipeline
from transformers.utils import logging

from .configuration_otdrg import STATES
from .disease_states_otdrg import (
    POSITIVE,
    UNCERTAIN,
    contradicted_labels,
    moved_labels,
    plausible_states,
    thresholds_at,
)
from .familiarity_otdrg import InputStatistics, Inspection, inspect_images, study_inspection
from .image_loading import load_views, view_names
from .report_text_otdrg import DecodedReport, decode_reports, impression_draft, report_sections
from .revision_otdrg import draft_options, draws_samples
from .vision_otdrg import evidence_map

logger = logging.get_logger(__name__)

TASK = "radiology-report"
STUDY_KEYS = ("images", "views", "indication", "comparison", "disease_labels", "begins_with", "impression_of")
UNTRAINED = (
    "The LLM of this model was not trained on reports: what it writes means nothing, whatever it says. Train the stage "
    "'finetune' or 'joint'."
)
NO_SECTIONS = (
    "The model cannot write an impression alone: it did not learn to begin its reports with 'Findings:'. Give the "
    "findings as begins_with."
)
UNFAMILIAR = (
    "An image is not one that the model knows ({}; distance {:g}, familiar up to 1): do not rely on what is written "
    "of it. Every answer says so under 'input'; this is said once."
)
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
    # What reads the sentences of a report, and the states that reports state. Both need the labeler, which does not
    # travel with a checkpoint, so that otdrg_hf sets them: see `otdrg_hf/auto_classes.py`,
    # `otdrg_hf.reporting.sentences.read_sentences` and `otdrg_hf.reporting.review.stated_states`.
    read_sentences: ClassVar[Callable[..., list[dict]] | None] = None
    read_states: ClassVar[Callable[[Sequence[str], Sequence[str]], np.ndarray] | None] = None

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self._writes_sections = False
        if self.model.config.notice:
            logger.warning(self.model.config.notice)
        if not self.model.config.trained_on_reports:
            logger.warning(UNTRAINED)
        if self.processor.context_length is None:  # a folder from before processors knew it
            self.processor.context_length = self.model.config.context_length
        self.read_input_statistics()
        self._warned_of_input = False

    def read_input_statistics(self):
        """Takes over `input_statistics` of the model's configuration, which have changed."""
        packed = self.model.config.input_statistics
        self.input_statistics = None if packed is None else InputStatistics.unpack(packed)

    def __call__(self, study, **kwargs):
        r"""
        Writes the report of a study, or of each study of a list.

        Args:
            study:
                An image (PIL, path, URL, also `data:`, bytes, open file, array; files may be DICOM), or a dict with
                `images` (a list) and, optionally, `views` (`"frontal"`, `"lateral"` or `"unknown"` per image; by
                default what DICOM files say, else, of a model with input statistics, what familiar images look like;
                where a view is recognised, frontal images are read first), `indication`, `comparison` (the earlier
                report) and `disease_labels`
                (`{"Pneumothorax": "positive"}`: a known state that overrides the prediction; the report is then a
                revision of the one without it, which is written first and takes as long again, see `generate`),
                `begins_with` and `impression_of` (as below, of this study).
                A list, generator or dataset of these, or of lists of views, is a batch of studies; generators and
                datasets are answered as they are read.
            evidence (`bool`, *optional*, defaults to `False`): Add heat maps.
            sentences (`bool`, *optional*):
                Add what each sentence states and how sure that is. Default: where the checkpoint has a
                `sentence_calibration`. Needs otdrg_hf, which has the labeler.
            begins_with (`str`, *optional*): The beginning of the report, which is kept as it is and continued.
            impression_of (`str`, *optional*):
                Findings whose impression is to be written, for a model that learned reports with both sections.
            operating_point (`str` or `dict`, *optional*):
                What to choose between missing and overcalling: `"balanced"` (the thresholds as without a point),
                `"sensitive"`, `"specific"`, `{"recall": 0.95}`, `{"precision": 0.9}`, or one of these by label, as in
                `{"Pneumothorax": {"recall": 0.95}}` (see [`thresholds_at`]). The report is a revision of the one
                without a point, which takes as long again or twice: states that it contradicts are overridden. What a
                label cannot reach is warned of once, and in the answer.
            max_new_tokens (`int`, *optional*, defaults to 256):
                Bound on the length of the report, in tokens. It is lowered, with a warning, to what the prompt leaves
                of the LLM's context.
            streamer (`BaseStreamer`, *optional*): Gets the report of one study as it is written.
            generate_kwargs (`dict`, *optional*): Further arguments of `generate`.
            sample_kwargs (`dict`, *optional*):
                Arguments of `generate` for further reports of the same study, such as `{"do_sample": True,
                "num_return_sequences": 4}`, which follow in `candidates`; the images are encoded once.
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
            - **input** (`dict`, of a model with input statistics): Whether the images are like its training images:
              `familiar`, `distance` (familiar up to 1), `view` (that they look like), `why`; see [`study_inspection`].
            - **evidence** (`dict[str, list[np.ndarray]]`, with `evidence=True`): For each label that is positive or
              uncertain a map per view, float32 `[H, W]` of that image, from 0 to 1, of where it was seen.
            - **sentences** (`list[dict]`, see above): As of `otdrg_hf.reporting.read_sentences`; with candidates
              **candidate_sentences**, one list for each of them.

        Raises:
            ValueError: for a study that cannot be read, naming the image, key, label or state at fault, or one whose
                prompt or beginning leaves no room for a report.
        """
        self._warned_of_input = False
        if isinstance(study, list) and not study:
            return []
        if hasattr(study, "column_names"):  # a `datasets.Dataset`, which transformers does not know
            study = (row for row in study)
        return super().__call__(study, **kwargs)

    def _sanitize_parameters(
        self,
        evidence=None,
        sentences=None,
        max_new_tokens=None,
        streamer=None,
        generate_kwargs=None,
        sample_kwargs=None,
        seed=None,
        begins_with=None,
        impression_of=None,
        operating_point=None,
        **unknown,
    ):
        if unknown:
            raise ValueError(
                f"Unknown argument {next(iter(unknown))!r}; what belongs to a study goes into its dict, and what "
                "belongs to `generate` into `generate_kwargs`."
            )
        if sentences and type(self).read_sentences is None:
            raise ValueError("`sentences` needs the labeler of otdrg_hf: install it, and load the model with it.")
        given = {"begins_with": begins_with, "impression_of": impression_of}
        forward: dict[str, Any] = {"generate_kwargs": dict(generate_kwargs or {})}
        if max_new_tokens is not None:
            forward["generate_kwargs"]["max_new_tokens"] = max_new_tokens
        if streamer is not None:
            forward["generate_kwargs"]["streamer"] = streamer
        options = {"evidence": evidence, "sentences": sentences, "sample_kwargs": sample_kwargs, "seed": seed}
        forward |= {name: value for name, value in options.items() if value is not None}
        postprocess: dict[str, Any] = {}
        if operating_point is not None:
            forward["positive_thresholds"], unreached = thresholds_at(operating_point, self.model.config)
            postprocess["operating_point"] = {"asked": operating_point, "unreached": unreached}
            for label, point in unreached.items():
                logger.warning_once(_unreached_text(label, point))
        return {name: value for name, value in given.items() if value is not None}, forward, postprocess

    def preprocess(self, study, begins_with: str | None = None, impression_of: str | None = None) -> dict:
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
        views = view_names(pictures, study.get("views"))
        prompt = self.processor.build_prompt(len(images), views, study.get("indication"), study.get("comparison"))
        begins_with = _text(study.get("begins_with", begins_with), "begins_with")
        impression_of = _text(study.get("impression_of", impression_of), "impression_of")
        draft = self._beginning(prompt, begins_with, impression_of)
        begun = self.processor.build_beginning(draft) if draft else ""
        inputs = self.processor([pictures], text=[prompt + begun], disease_labels={} if labels is None else labels)
        # One opaque entry: batches of studies with different numbers of views are padded in `_forward`.
        inputs = {key: value[0] for key, value in inputs.items()}
        self._check_room(inputs["input_ids"])  # here, where it is a mistake of this study alone
        inputs |= {"draft": draft, "prompt_length": self.processor.count_tokens(prompt) if impression_of else None}
        inputs |= {"prompt": prompt + begun, "views": views}
        sizes = [(picture.height, picture.width) for picture in pictures]
        return {"study": {**inputs, "sizes": sizes, "order": list(range(len(sizes)))}}

    def _beginning(self, prompt: str, begins_with: str, impression_of: str) -> str:
        """What the report begins with, as it was given, or the findings and the header of their impression."""
        draft = begins_with
        if impression_of:
            if begins_with:
                raise ValueError("Give `begins_with` or `impression_of`, not both.")
            draft = impression_draft(impression_of)
        context = self.model.config.context_length
        if not draft or context is None:
            return draft
        before = self.processor.count_tokens(prompt)
        tokens = self.processor.count_tokens(prompt + self.processor.build_beginning(draft)) - before
        if before < context <= before + tokens:
            raise ValueError(
                f"The beginning of the report takes {tokens} tokens and leaves no room to continue it: the prompt "
                f"takes {before} of the LLM's context of {context}. Give a shorter one."
            )
        return draft

    def _forward(self, model_inputs: dict, generate_kwargs: dict, **options) -> dict:
        studies = model_inputs["study"]
        studies = studies if isinstance(studies, list) else [studies]
        if self.input_statistics is not None:
            studies = self._inspected(studies, self._pad(studies), self.input_statistics)
        answers: list[dict] = [{} for _ in studies]
        calls, sample_kwargs = [generate_kwargs], options.pop("sample_kwargs", None)
        if sample_kwargs is not None:
            calls.append({**generate_kwargs, **sample_kwargs, "streamer": None})
        for indices, within_context in self._by_room(studies, calls):
            together = self._answers([studies[index] for index in indices], within_context, **options)
            for index, answer in zip(indices, together, strict=True):
                answers[index] = answer
        return {"answers": answers}

    def _answers(
        self,
        studies: list[dict],
        calls: list[dict],
        evidence: bool = False,
        sentences: bool | None = None,
        seed: int | None = None,
        positive_thresholds: list[float] | None = None,
    ) -> list[dict]:
        """What is reported of a batch of studies, from one pass of the model and these calls of `generate`."""
        batch = self._pad(studies)
        if positive_thresholds is not None and "pixel_values" in batch:  # a report may be revised more than once
            pixel_values = batch.pop("pixel_values").to(self.model.dtype)
            batch["vision_features"] = self.model.get_vision_features(pixel_values, batch["view_mask"])
        features = self._features(batch, positive_thresholds)
        self._check_sections(studies, batch, features)
        if sentences is None:
            sentences = self.model.config.sentence_calibration is not None and type(self).read_sentences is not None
        reports: list[list[DecodedReport]] = [[] for _ in studies]
        used = []
        for options in calls:
            of_call, written = self._write_reports(
                studies, batch, features, options, positive_thresholds, sentences, seed
            )
            used.append(of_call)
            reports = [before + added for before, added in zip(reports, written, strict=True)]
        features = used[0]  # samples may be written from other overrides than the report
        scores = features.disease_logits.softmax(-1)[..., POSITIVE]
        plausible = plausible_states(features.disease_logits, self.model.config)  # [B, m, states]
        answers = []
        for index, study in enumerate(studies):
            answers.append(
                {
                    "reports": reports[index],
                    "states": features.disease_states[index].tolist(),
                    "scores": scores[index].tolist(),
                    "plausible": None if plausible is None else plausible[index].tolist(),
                    "evidence": features.evidence[index].float().cpu() if evidence else None,
                    "sizes": study["sizes"],
                    "given": study["disease_labels"].tolist(),
                    "sentences": sentences,
                    "order": study["order"],
                    "input": study.get("input"),
                }
            )
        return answers

    def _write_reports(
        self, studies: list[dict], batch: dict[str, torch.Tensor], features, options: dict, thresholds, sentences, seed
    ):
        """The features that reports were written from in the end, and the reports of each study."""
        if sentences:
            options = {**options, "return_dict_in_generate": True, "output_logits": True}
        options, beginnings = self._prepare_generate_kwargs(options), [study["draft"] for study in studies]
        with torch.random.fork_rng(enabled=seed is not None):
            if seed is not None:
                torch.manual_seed(seed)
            if thresholds is None or not self._follows_point(thresholds, options):
                written = self._write(batch, features, options)
            else:
                features, written = self._write_at_point(batch, features, thresholds, beginnings, options)
        reports = decode_reports(self.processor.tokenizer, written, batch["input_ids"].shape[1], beginnings, sentences)
        per_study = len(reports) // len(studies)
        return features, [reports[start : start + per_study] for start in range(0, len(reports), per_study)]

    def _features(self, batch: dict[str, torch.Tensor], thresholds, overridden: torch.Tensor | None = None):
        encoded = {name: batch[name] for name in ("pixel_values", "vision_features") if name in batch}
        return self.model.get_image_features(
            **{name: value.to(self.model.dtype) for name, value in encoded.items()},
            view_mask=batch["view_mask"],
            disease_labels=batch["disease_labels"],
            positive_thresholds=thresholds,
            overridden=overridden,
            return_dict=True,
        )

    def _write(self, batch: dict[str, torch.Tensor], features, options: dict):
        prompts = {name: batch[name] for name in ("input_ids", "attention_mask")}
        return self.model.generate(**prompts, mm_encoder_outputs={"image": features}, **options)

    def _follows_point(self, thresholds: list[float], options: dict) -> bool:
        """
        Whether reports at an operating point are read, to override what they contradict. Samples are not revised, and
        without the labeler no report can be read: all that the point changes is an override then.
        """
        is_read = type(self).read_states is not None and not draws_samples(self.model, options)
        return is_read and thresholds != self.model.config.positive_thresholds

    def _write_at_point(self, batch, features, thresholds: list[float], beginnings: list[str], options: dict):
        """
        Reports at an operating point: those without it, revised where they contradict its states, and once more where
        the revision does.

        Only what is contradicted is overridden. An override shows nothing of the image: a finding that is stated
        already keeps what was seen of it, and its side.
        """
        streamer = options.pop("streamer", None)
        plain = self._write(batch, features.as_predicted(), draft_options(options))
        may_override = moved_labels(thresholds, batch["disease_labels"], self.model.config)  # [B, m]
        contradicted = self._contradicted(plain, features, batch, beginnings)
        changed = torch.zeros_like(may_override) if features.overridden is None else features.overridden
        overridden = contradicted.where(may_override, changed)
        features = self._revised_features(batch, thresholds, overridden, plain)
        written = self._write(batch, features, options)
        contradicted = self._contradicted(written, features, batch, beginnings) & may_override & ~overridden
        if contradicted.any():
            features = self._revised_features(batch, thresholds, overridden | contradicted, plain)
            return features, self._write(batch, features, {**options, "streamer": streamer})
        if streamer is not None:
            sequences, prompt = getattr(written, "sequences", written).cpu(), batch["input_ids"].shape[1]
            for tokens in (sequences[:, :prompt], *sequences[:, prompt:].T):  # the prompt at once, as in `generate`
                streamer.put(tokens)
            streamer.end()
        return features, written

    def _revised_features(self, batch, thresholds: list[float], overridden: torch.Tensor, plain: torch.Tensor):
        features = self._features(batch, thresholds, overridden)
        if features.is_revision is not None:
            features.drafts = plain[:, batch["input_ids"].shape[1] :]
        return features

    def _contradicted(self, written, features, batch: dict[str, torch.Tensor], beginnings: list[str]) -> torch.Tensor:
        """Labels of which the reports state another state than `features` has, `[B, m]`; see `contradicted_labels`."""
        reader = type(self).read_states
        assert reader is not None  # by `_follows_point`
        reports = decode_reports(self.processor.tokenizer, written, batch["input_ids"].shape[1], beginnings)
        texts = [report.text for report in reports[:: len(reports) // len(beginnings)]]
        stated = torch.from_numpy(reader(texts, self.model.config.label_names))
        return contradicted_labels(stated, features.disease_states, features.overridden)

    def _check_sections(self, studies: list[dict], batch: dict[str, torch.Tensor], features):
        """
        `ValueError` where an impression is asked for and the model, left to itself, would not begin its report with the
        header of the findings. Asked once: a model has learned sections or not.
        """
        index = next((index for index, study in enumerate(studies) if study["prompt_length"]), None)
        if index is None or self._writes_sections:
            return
        header = self.processor.build_beginning("Findings:")
        header_ids = self.processor.tokenizer(header, add_special_tokens=False, return_tensors="pt")["input_ids"]
        header_ids = header_ids.to(batch["input_ids"])  # [1, H]
        prompt_ids = batch["input_ids"][index][batch["attention_mask"][index].bool()][: studies[index]["prompt_length"]]
        rows = torch.tensor([index], device=prompt_ids.device)
        with torch.no_grad():
            logits = self.model(
                input_ids=torch.cat([prompt_ids[None], header_ids], dim=1),
                mm_encoder_outputs={"image": features.of_studies(rows)},
                logits_to_keep=header_ids.shape[1] + 1,
            ).logits[:, :-1]  # [1, H, vocab]
        log_probs = logits.float().log_softmax(-1).gather(-1, header_ids.unsqueeze(-1))
        if log_probs.sum().exp() < 0.5:
            raise ValueError(NO_SECTIONS)
        self._writes_sections = True

    def _inspected(
        self, studies: list[dict], batch: dict[str, torch.Tensor], statistics: InputStatistics
    ) -> list[dict]:
        """The studies with what their images look like, unnamed views recognised, and images encoded only once."""
        features = self.model.get_vision_features(batch["pixel_values"].to(self.model.dtype), batch["view_mask"])
        inspected = []
        for study, of_study in zip(studies, features, strict=True):
            of_study = of_study[: len(study["views"])]  # [V, rows, columns, c]
            inspections = self._inspect(study, of_study, statistics)
            recognised = [
                each.view if view == "unknown" and each.familiar else view
                for view, each in zip(study["views"], inspections, strict=True)
            ]
            order = list(range(len(recognised)))
            if recognised != study["views"]:
                order.sort(key=lambda index: recognised[index] != "frontal")
            tokens = self.processor.prompt_tokens(study["prompt"], [recognised[index] for index in order])
            longer = len(tokens["input_ids"]) - len(study["input_ids"])
            inspected.append(
                {
                    **study,
                    **tokens,
                    "prompt_length": study["prompt_length"] and study["prompt_length"] + longer,
                    "vision_features": of_study[order],
                    "sizes": [study["sizes"][index] for index in order],
                    "order": order,
                    "input": study_inspection(inspections),
                }
            )
        return inspected

    def _inspect(self, study: dict, features: torch.Tensor, statistics: InputStatistics) -> list[Inspection]:
        """What the images of a study look like; the first unfamiliar one of a call is warned of."""

        def encode(pixels: torch.Tensor) -> torch.Tensor:
            values = self.processor.normalised_pixels(pixels).to(features.device, self.model.dtype)
            return self.model.get_vision_features(values)[:, 0]

        pixels = self.processor.plain_pixels(study["pixel_values"].cpu())  # [V, 3, H, W]
        inspections = inspect_images(statistics, features, pixels, study["views"], encode)
        strange = [each for each in inspections if not each.familiar]
        if strange and not self._warned_of_input:
            self._warned_of_input = True
            logger.warning(UNFAMILIAR.format(strange[0].why, strange[0].distance))
        return inspections

    def _by_room(self, studies: list[dict], calls: list[dict]) -> list[tuple[list[int], list[dict]]]:
        """
        Indices of the studies that are written together, with the arguments of `generate`, of each call, by which
        prompt and report fit into the LLM's context. A study with a long prompt is written apart: it would cut the
        reports of the others.
        """
        if self.model.config.context_length is None:
            return [(list(range(len(studies))), calls)]
        bounds = [self._get_set_generation_params(self._prepare_generate_kwargs(call)) for call in calls]
        groups: dict[tuple[int | None, ...], list[int]] = {}
        for index, study in enumerate(studies):
            prompt = self._check_room(study["input_ids"])
            groups.setdefault(tuple(self._room(prompt, bound) for bound in bounds), []).append(index)
        return [
            (
                indices,
                [
                    call if room is None else {**call, "max_new_tokens": room}
                    for call, room in zip(calls, rooms, strict=True)
                ],
            )
            for rooms, indices in groups.items()
        ]

    def _room(self, prompt: int, bound: dict) -> int | None:
        """Tokens that a prompt of so many leaves for a report, with a warning; `None` for all that are wanted."""
        context = self.model.config.context_length
        wanted = bound.get("max_new_tokens") or bound.get("max_length", 0) - prompt
        if prompt + wanted <= context:
            return None
        logger.warning(
            f"max_new_tokens is {context - prompt} instead of {wanted}: the prompt takes {prompt} tokens of the LLM's "
            f"context of {context}."
        )
        return context - prompt

    def _check_room(self, input_ids: Sequence[int]) -> int:
        """Tokens of a prompt; `ValueError` where they leave none for a report."""
        prompt, context = len(input_ids), self.model.config.context_length
        if context is not None and prompt >= context:
            raise ValueError(
                f"The prompt takes {prompt} tokens and leaves no room for a report in the LLM's context of {context}: "
                "give fewer views or a shorter text."
            )
        return prompt

    def _pad(self, studies: list[dict]) -> dict[str, torch.Tensor]:
        rows = [{key: study[key] for key in ("input_ids", "attention_mask")} for study in studies]
        batch = dict(self.processor.tokenizer.pad(rows, padding_side="left", return_tensors="pt"))
        views = max(len(study["view_mask"]) for study in studies)
        of_images = "vision_features" if "vision_features" in studies[0] else "pixel_values"
        for key in (of_images, "view_mask"):
            padded = [
                F.pad(study[key], (0, 0) * (study[key].dim() - 1) + (0, views - len(study[key]))) for study in studies
            ]
            batch[key] = torch.stack(padded)  # [B, V, ...]
        batch["disease_labels"] = torch.stack([study["disease_labels"] for study in studies])
        return self._ensure_tensor_on_device(batch, device=self.device)

    def postprocess(self, model_outputs: dict, operating_point: dict | None = None) -> dict:
        answer = model_outputs["answers"]
        answer = answer[0] if isinstance(answer, list) else answer
        texts = [report.text for report in answer["reports"]]
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
        if answer["input"] is not None:
            result["input"] = answer["input"]
        if answer["evidence"] is not None:
            result["evidence"] = self._evidence(answer)
        if answer["sentences"] and (reader := type(self).read_sentences):
            result |= self._sentences(reader, answer["reports"], findings, answer["given"], result.get("evidence"))
        return result

    def _sentences(
        self,
        reader: Callable[..., list[dict]],
        reports: list[DecodedReport],
        findings: list[dict],
        given: list[int],
        evidence: dict | None,
    ) -> dict[str, list]:
        """What the sentences of each report state, by `reader`."""
        config = self.model.config
        overridden = [label for label, state in zip(config.label_names, given, strict=True) if state >= 0]
        read = [
            reader(
                report.text,
                findings,
                tokens=report.tokens,
                calibration=config.sentence_calibration,
                draft_length=report.draft_length,
                overridden=overridden,
                evidence=evidence,
            )
            for report in reports
        ]
        return {"sentences": read[0]} | ({"candidate_sentences": read} if len(read) > 1 else {})

    def _evidence(self, answer: dict) -> dict[str, list[np.ndarray]]:
        config = self.model.config
        views = len(answer["sizes"])
        rows, columns = config.image_grid
        maps = answer["evidence"][: views * rows * columns].T.unflatten(1, (views, rows, columns))  # [m, V, h, w]
        evidence = {}
        for index, (label, state) in enumerate(zip(config.label_names, answer["states"], strict=True)):
            if state in (POSITIVE, UNCERTAIN):
                of_label = maps[index] / maps[index].max().clamp(min=1e-12)
                heats = [
                    evidence_map(view, size, config.patch_offset).numpy()
                    for view, size in zip(of_label, answer["sizes"], strict=True)
                ]
                evidence[label] = [heats[answer["order"].index(image)] for image in range(views)]
        return evidence

    def save_pretrained(self, save_directory, **kwargs):
        """Saves model and processor with the code that runs both where otdrg_hf is not installed."""
        self.model.save_pretrained(save_directory, **kwargs)
        self.processor.save_pretrained(save_directory, **kwargs)


def _text(value, name: str) -> str:
    if value is not None and not isinstance(value, str):
        raise ValueError(f"`{name}` must be text, got {type(value).__name__}.")
    return value if value and value.strip() else ""


def _unreached_text(label: str, point: dict[str, Any]) -> str:
    reached = point["reached"]
    if reached is None:
        return f"The operating point of {label} stays balanced: there was no study with it to fit a curve on."
    [(measure, value)] = point["asked"].items()
    return f"{label} cannot reach a {measure} of {value:g}: on validation it got to {reached:g}, which is what is used."


__all__ = ["RadiologyReportPipeline"]
