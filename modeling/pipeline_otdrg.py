"""`pipeline("radiology-report")`: from a study to its report, the disease states behind it and where each was seen."""

from collections.abc import Sized

import numpy as np
import torch
from torch.nn import functional as F
from transformers import GenerationConfig, LogitsProcessorList, Pipeline
from transformers.utils import logging

from .disease_states import POSITIVE, UNCERTAIN, predict_states
from .draft_otdrg import ExpectedTokens, KeepDraft, draft_tokens
from .evidence_maps_otdrg import evidence_map
from .image_loading import load_views, view_in
from .prefetching import Prefetched
from .report_sections import report_sections
from .roomy_cache import make_cache

logger = logging.get_logger(__name__)

TASK = "radiology-report"
STUDY_KEYS = ("images", "views", "indication", "comparison", "disease_labels")
UNTRAINED = (
    "The LLM of this model was not trained on reports: what it writes means nothing, whatever it says. Train the stage "
    "'finetune' or 'joint'."
)
PLAIN_GENERATION = {"logits_processor", "max_new_tokens", "streamer", "num_beams", "num_return_sequences", "do_sample"}
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
                An image (PIL, path, URL, bytes, array; files may be DICOM), or a dict with `images` (a list) and,
                optionally, `views` (`"frontal"`, `"lateral"` or `"unknown"` per image; by default what DICOM files
                say), `indication`, `comparison` (the earlier report) and `disease_labels`
                (`{"Pneumothorax": "positive"}`: a state that is known and overrides the prediction; the rest of the
                report then keeps to what is written without it, which is written first and takes as long again).
                A list, generator or dataset of these, or of lists of views, is a batch of studies; generators and
                datasets are answered as they are read, the next batch being decoded while the model runs.
            evidence (`bool`, *optional*, defaults to `False`): Add heat maps.
            max_new_tokens (`int`, *optional*, defaults to 256):
                Bound on the length of the report, in tokens. It is lowered, with a warning, to what the prompt leaves
                of the LLM's context.
            streamer (`BaseStreamer`, *optional*): Gets the report of one study as it is written.
            generate_kwargs (`dict`, *optional*): Further arguments of `generate`.
            batch_size (`int`, *optional*, defaults to 1): Studies that go through the model together.

        Returns:
            A `dict`, or a list of them, with

            - **generated_text** (`str`): The report; **candidates** (`list[str]`) if several were asked for.
            - **sections** (`dict[str, str]`): `findings` and `impression`, where the report has both headers.
            - **findings** (`list[dict]`): For each label `label`, `state` and `score`, the probability of positive.
            - **evidence** (`dict[str, list[np.ndarray]]`, with `evidence=True`): For each label that is positive or
              uncertain a map per view, float32 `[H, W]` of that image, from 0 to 1, of where it was seen.

        Raises:
            ValueError: for a study that cannot be read, naming the image, key, label or state at fault, or one whose
                prompt leaves no room for a report.
        """
        return super().__call__(study, **kwargs)

    def get_iterator(self, inputs, num_workers: int, *args):
        answers = super().get_iterator(inputs, num_workers, *args)
        if num_workers == 0:
            forwarded = answers.loader  # below the answers are the forward passes, below these the batches
            forwarded.loader = Prefetched(forwarded.loader, once=not isinstance(inputs, Sized))
        return answers

    def _sanitize_parameters(self, evidence=None, max_new_tokens=None, streamer=None, generate_kwargs=None, **unknown):
        if unknown:
            raise ValueError(f"Unknown argument {next(iter(unknown))!r}; what belongs to a study goes into its dict.")
        forward = {"generate_kwargs": dict(generate_kwargs or {})}
        if max_new_tokens is not None:
            forward["generate_kwargs"]["max_new_tokens"] = max_new_tokens
        if streamer is not None:
            forward["generate_kwargs"]["streamer"] = streamer
        if evidence is not None:
            forward["evidence"] = evidence
        return {}, forward, {}

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

    def _forward(self, model_inputs: dict, generate_kwargs: dict, evidence: bool = False) -> dict:
        studies = model_inputs["study"]
        studies = studies if isinstance(studies, list) else [studies]
        batch = self._pad(studies)
        generate_kwargs = self._within_context(batch, generate_kwargs)
        features = self.model.get_image_features(
            batch["pixel_values"].to(self.model.dtype), batch["view_mask"], batch["disease_labels"]
        )
        draft = self._draft(batch, features, generate_kwargs)
        if draft is not None:
            processors = [*generate_kwargs.get("logits_processor", []), draft]
            generate_kwargs = {**generate_kwargs, "logits_processor": LogitsProcessorList(processors)}
        sequences = self._generate(batch, features, generate_kwargs)
        texts = self.processor.batch_decode(sequences[:, batch["input_ids"].shape[1] :], skip_special_tokens=True)
        per_study = len(texts) // len(studies)
        scores = features.disease_logits.softmax(-1)[..., POSITIVE]
        answers = []
        for index, study in enumerate(studies):
            answers.append(
                {
                    "texts": texts[index * per_study : (index + 1) * per_study],
                    "states": features.disease_states[index].tolist(),
                    "scores": scores[index].tolist(),
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

    def _generate(self, batch: dict[str, torch.Tensor], features, generate_kwargs: dict) -> torch.Tensor:
        # Whoever asks `generate` for something special may want a cache of his own.
        plain = set(generate_kwargs) <= PLAIN_GENERATION
        cache = {"past_key_values": make_cache(self.model.config.get_text_config(decoder=True))} if plain else {}
        sequences = self.model.generate(
            input_ids=batch["input_ids"],
            attention_mask=batch["attention_mask"],
            mm_encoder_outputs={"image": features},
            **{**self._prepare_generate_kwargs(generate_kwargs), **cache},
        )
        return getattr(sequences, "sequences", sequences)  # with `return_dict_in_generate`

    def _draft(self, batch: dict[str, torch.Tensor], features, generate_kwargs: dict) -> KeepDraft | None:
        """Reports without the labels that were set against the prediction, for those with them to keep to."""
        config = self.model.config
        set_by_hand = (features.disease_states != predict_states(features.disease_logits, config)).any(-1)  # [B]
        # Where all labels are given there is no prediction to be revised.
        rows = (set_by_hand & (batch["disease_labels"] < 0).any(-1)).nonzero()[:, 0]
        if len(rows) == 0 or generate_kwargs.get("do_sample"):
            return None
        some = {key: value[rows] for key, value in batch.items()}
        plain = self.model.get_image_features(some["pixel_values"].to(self.model.dtype), some["view_mask"])
        options = {k: v for k, v in generate_kwargs.items() if k not in ("streamer", "num_return_sequences")}
        prompt_length = batch["input_ids"].shape[1]
        written = draft_tokens(self._generate(some, plain, options)[:, prompt_length:], self._end_tokens())  # [rows, D]
        expected = self._expected_tokens(some, plain, written)
        return KeepDraft.for_some(rows, len(batch["input_ids"]), written, expected, prompt_length)

    def _expected_tokens(self, batch: dict[str, torch.Tensor], features, written: torch.Tensor) -> ExpectedTokens:
        """What the model thought likely where it wrote `written` `[B, D]`."""
        mask = torch.cat([batch["attention_mask"], torch.ones_like(written)], dim=1)
        logits = self.model(
            input_ids=torch.cat([batch["input_ids"], written.clamp(min=0)], dim=1),
            attention_mask=mask,
            position_ids=(mask.cumsum(-1) - 1).clamp(min=0),
            mm_encoder_outputs={"image": features},
            logits_to_keep=written.shape[1] + 1,
        ).logits
        return ExpectedTokens.from_logits(logits)

    def _end_tokens(self) -> list[int]:
        tokens = self.model.generation_config.eos_token_id
        return tokens if isinstance(tokens, list) else [] if tokens is None else [tokens]

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

    def postprocess(self, model_outputs: dict) -> dict:
        answer = model_outputs["answers"]
        answer = answer[0] if isinstance(answer, list) else answer
        texts = [text.strip() for text in answer["texts"]]
        config = self.model.config
        findings = [
            {"label": label, "state": config.label_states[state], "score": round(score, 4)}
            for label, state, score in zip(config.label_names, answer["states"], answer["scores"], strict=True)
        ]
        result = {"generated_text": texts[0], "findings": findings}
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


__all__ = ["RadiologyReportPipeline"]
