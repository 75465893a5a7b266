# Copyright 2026 The otdrg-hf authors.
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.
"""Processor of OTDRG: studies and prompts in, model inputs out; disease labels by name."""

import re
from bisect import bisect_right
from collections.abc import Sequence
from difflib import get_close_matches

import torch
from PIL import Image
from transformers import AutoImageProcessor, BatchFeature, PreTrainedModel, ProcessorMixin
from transformers.utils import logging

from .configuration_otdrg import CHEXBERT_LABELS, STATES, OTDRGConfig
from .disease_states_otdrg import POSITIVE, UNCERTAIN
from .image_loading import load_views, view_in

logger = logging.get_logger(__name__)

IMAGE_TOKEN, FINDING_TOKEN = "<image>", "<finding>"
UNKNOWN = -100
REPORT_TOKENS = 256  # of the LLM's context are left for the report, or a quarter of it where it is short
VIEW_NAMES = {"frontal": "Frontal view:", "lateral": "Lateral view:", "unknown": "View:"}


class OTDRGProcessor(ProcessorMixin):  # trf-ignore: TRF057
    r"""
    Joins an image processor and a tokenizer.

    Args:
        image_processor ([`BaseImageProcessor`]): Resizes and normalises one view.
        tokenizer ([`PreTrainedTokenizerBase`]): Knows `<image>` and `<finding>` as single tokens.
        chat_template (`str`, *optional*): Overrides the tokenizer's own. Without either, prompts are plain text.
        num_image_tokens (`int`, *optional*, defaults to 196): Visual tokens of one view (`config.image_seq_length`).
        num_finding_tokens (`int`, *optional*):
            Tokens that the labels take (`config.finding_seq_length`). Default: one per label.
        label_names (`list[str]`, *optional*): The labels, in the order of `config.label_names`.
        label_prompt (`bool`, *optional*, defaults to `True`):
            Whether prompts show the LLM the labels. Without, it sees the image alone, as in LLaVA.
        context_length (`int`, *optional*):
            Tokens that the LLM has positions for (`config.context_length`). Default: no bound is known.
    """

    def __init__(
        self,
        image_processor=None,
        tokenizer=None,
        chat_template: str | None = None,
        num_image_tokens: int = 196,
        label_names: Sequence[str] = CHEXBERT_LABELS,
        label_prompt: bool = True,
        num_finding_tokens: int | None = None,
        context_length: int | None = None,
        **kwargs,
    ):
        self.num_image_tokens = num_image_tokens
        self.label_prompt = label_prompt
        self.context_length = context_length
        self.label_names = list(label_names)
        self.num_finding_tokens = len(self.label_names) if num_finding_tokens is None else num_finding_tokens
        self.image_token, self.finding_token = IMAGE_TOKEN, FINDING_TOKEN
        vocabulary = tokenizer.get_vocab()
        if IMAGE_TOKEN not in vocabulary or FINDING_TOKEN not in vocabulary:
            raise ValueError(
                f"The tokenizer does not know {IMAGE_TOKEN} and {FINDING_TOKEN}: build the processor with "
                "OTDRGProcessor.from_model(OTDRGForConditionalGeneration.from_backbones(vision, text))."
            )
        self.image_token_id, self.finding_token_id = vocabulary[IMAGE_TOKEN], vocabulary[FINDING_TOKEN]
        added = {str(token) for token in tokenizer.added_tokens_decoder.values() if token.special}
        special = sorted({*added, *tokenizer.all_special_tokens}, key=len, reverse=True)
        self._special_tokens = re.compile("|".join(map(re.escape, special)))
        super().__init__(image_processor, tokenizer, chat_template=chat_template)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str, **kwargs) -> "OTDRGProcessor":
        """As in transformers, but images are resized by Pillow unless another `backend` is asked for."""
        # Else transformers resizes by torchvision where that is installed: other pixels than in training.
        options = {"backend": "pil", **kwargs}
        # Not for all parts at once: a tokenizer would take it for a backend of its own, and save it.
        kwargs.pop("backend", None)
        processor = super().from_pretrained(pretrained_model_name_or_path, **kwargs)
        processor.image_processor = AutoImageProcessor.from_pretrained(pretrained_model_name_or_path, **options)
        return processor

    @classmethod
    def from_model(cls, model: PreTrainedModel) -> "OTDRGProcessor":
        """
        The processor that goes with a model: made along with it by `from_backbones`, or saved beside it.

        Raises:
            ValueError: for a model that was neither joined by `from_backbones` nor loaded from a folder or the Hub.
        """
        if (processor := getattr(model, "processor", None)) is not None:
            return processor
        if not model.name_or_path:
            raise ValueError("The model has no processor: join it by from_backbones, or load it by from_pretrained.")
        return cls.from_pretrained(model.name_or_path)

    def __call__(  # trf-ignore: TRF057
        self,
        images=None,
        text: str | Sequence[str] | None = None,
        views: Sequence | None = None,
        indication: str | Sequence[str] | None = None,
        comparison: str | Sequence[str] | None = None,
        disease_labels=None,
        **kwargs,
    ) -> BatchFeature:
        r"""
        Prepares one study or a batch of them.

        Args:
            images:
                One image (a study of one view), a list of images (a batch of such studies) or a list of lists (the
                views of each study). Everything that [`load_radiograph`] takes is an image.
            text (`str` or `list[str]`, *optional*):
                A prompt per study with one `<image>` per view and at most one `<finding>`. Default: `build_prompt`.
            views (`list[str]` or `list[list[str]]`, *optional*):
                `"frontal"`, `"lateral"` or `"unknown"` per image. Default: what DICOM files say, else `"unknown"`.
            indication, comparison (`str` or `list[str]`, *optional*):
                Why the film was taken; the earlier report. What the LLM's context has no room for is cut, see
                `build_prompt`.
            disease_labels (*optional*):
                Known states: a dict such as `{"Pneumothorax": "positive"}` per study, or codes `[B, m]`.
            kwargs: For the tokenizer; `padding=True`, `padding_side="left"` and `return_tensors="pt"` by default.

        Returns:
            [`BatchFeature`] with `input_ids`, `attention_mask`, `pixel_values` `[B, V, 3, H, W]`, `view_mask` `[B, V]`
            and, if given, `disease_labels` `[B, m]`.

        Raises:
            ValueError: for an image, label, state or prompt that cannot be used, naming it, or a prompt that is longer
                than the LLM's context.
        """
        if images is None and text is None:
            raise ValueError("The processor needs `images`, `text` or both.")
        data = {}
        if images is not None:
            studies = [load_views(study, f"study {index}") for index, study in enumerate(_as_studies(images))]
            data = self._pixel_inputs(studies)
            views = _per_study(views, len(studies), "views", nested=True)
            views = [given or [view_in(p) for p in study] for given, study in zip(views, studies, strict=True)]
            if text is None:
                indication = _per_study(indication, len(studies), "indication")
                comparison = _per_study(comparison, len(studies), "comparison")
                text = [
                    self.build_prompt(len(study), *context)
                    for study, *context in zip(studies, views, indication, comparison, strict=True)
                ]
            text = self._expand_placeholders(text, [len(study) for study in studies])
        elif IMAGE_TOKEN in "".join(text or ""):
            raise ValueError(f"Image features and image tokens do not match: {IMAGE_TOKEN} in the text, but no images.")
        if disease_labels is not None:
            data["disease_labels"] = self.encode_labels(disease_labels)
            _per_study(data["disease_labels"], 1 if isinstance(text, str) else len(text or ()), "disease_labels")
        defaults = {"padding": True, "padding_side": "left", "return_tensors": "pt", "add_special_tokens": False}
        tokens = self.tokenizer(text, return_token_type_ids=False, **{**defaults, **kwargs})
        if images is not None:
            self._check_lengths(tokens)
        return BatchFeature({**tokens, **data})

    def build_prompt(
        self,
        num_views: int,
        views: Sequence[str] | None = None,
        indication: str | None = None,
        comparison: str | None = None,
        fit: bool = True,
    ) -> str:
        """
        The prompt of one study, one `<image>` per view, then what is known.

        Chat models get it as the user's turn of their template, others as text after their beginning-of-text token.

        Args:
            fit (`bool`, *optional*, defaults to `True`):
                Cut the longer of indication and earlier report, or both, at the end, with a warning, where the LLM's
                context (`context_length`) has no room for them and a report.
        """
        names = [views] if isinstance(views, str) else list(views or ["unknown"] * num_views)
        if len(names) != num_views:
            raise ValueError(f"A study of {num_views} images has {len(names)} view names: {names}.")
        for name in names:
            if name not in VIEW_NAMES:
                raise ValueError(f"{name!r} is no view; choose from {', '.join(VIEW_NAMES)}.")
        given = {"indication": indication, "comparison": comparison}
        known = {name: self._plain(text, name) if text else "" for name, text in given.items()}
        if fit and self.context_length is not None:
            known = self._fitting(names, known, self.context_length)
        return self._prompt(names, **known)

    def _prompt(self, views: Sequence[str], indication: str, comparison: str) -> str:
        lines = [f"{VIEW_NAMES[view]} {IMAGE_TOKEN}" for view in views]
        if self.label_prompt:
            lines.append(f"Findings: {FINDING_TOKEN}")
        if indication:
            lines.append(f"Indication: {indication}")
        if comparison:
            lines.append(f"Earlier report: {comparison}")
        prompt = "\n".join([*lines, "Report:"])
        template = self.chat_template or self.tokenizer.chat_template
        if template is None:
            return (self.tokenizer.bos_token or "") + prompt
        turn = [{"role": "user", "content": prompt}]
        return self.tokenizer.apply_chat_template(
            turn, chat_template=template, tokenize=False, add_generation_prompt=True
        )

    def _fitting(self, views: Sequence[str], known: dict[str, str], context_length: int) -> dict[str, str]:
        """`known` with as much of its texts as leaves room for a report in the LLM's context."""
        room = context_length - min(REPORT_TOKENS, context_length // 4)

        def tokens(**texts: str) -> int:
            return self.count_tokens(self._prompt(views, **{**known, **texts}), enough=room)

        for name in sorted(known, key=lambda name: -len(known[name])):  # the longer one gives way first
            text = known[name]
            if not text or tokens() <= room:
                continue
            end = max(bisect_right(range(len(text)), room, key=lambda end: tokens(**{name: text[:end]})) - 1, 0)
            kept = text[:end] if text[end] == " " else text[:end].rpartition(" ")[0] or text[:end]
            known = {**known, name: kept}
            logger.warning(
                f"The {name} is cut to {len(kept)} of its {len(text)} characters: prompt and report have to fit "
                f"in the LLM's context of {self.context_length} tokens."
            )
        return known

    def count_tokens(self, prompt: str, enough: int = 0) -> int:
        """
        Tokens of a prompt of `build_prompt` with its placeholders expanded.

        Args:
            enough (`int`, *optional*, defaults to 0): Where a bound on the tokens is not above it, that bound will do.
        """
        images, findings = prompt.count(IMAGE_TOKEN), prompt.count(FINDING_TOKEN)
        placeholders = images * (self.num_image_tokens - 1) + findings * (self.num_finding_tokens - 1)
        bound = len(prompt.encode()) + placeholders  # no token is less than a byte
        if bound <= enough:
            return bound
        return len(self.tokenizer(prompt, add_special_tokens=False)["input_ids"]) + placeholders

    def _check_lengths(self, tokens: BatchFeature):
        if self.context_length is None or max(map(len, tokens["input_ids"])) <= self.context_length:
            return
        for index, row in enumerate(tokens.get("attention_mask", tokens["input_ids"])):
            length = sum(int(value) > 0 for value in row)  # padding takes no position
            if length > self.context_length:
                raise ValueError(
                    f"Prompt {index} takes {length} tokens, more than the LLM's context of {self.context_length}: give "
                    "fewer views or a shorter text."
                )

    def build_completion(self, report: str) -> str:
        """What follows the prompt in training: the report and the end-of-text token."""
        # A chat template may end with a line break, after which no text begins with a space.
        space = "" if self._prompt(["unknown"], "", "")[-1].isspace() else " "
        return f"{space}{self._plain(report, 'report')}{self.tokenizer.eos_token}"

    def _plain(self, text: str, name: str) -> str:
        """Text of a report or a request, which must not smuggle placeholders or turns of its own into the prompt."""
        if not isinstance(text, str):
            raise ValueError(f"`{name}` must be text, got {type(text).__name__}.")
        return " ".join(self._special_tokens.sub(" ", text).split())

    def encode_labels(self, disease_labels) -> torch.Tensor:
        """Label states as codes `[B, m]` (int64), -100 where not given; from dicts of names or from codes."""
        if isinstance(disease_labels, dict):
            disease_labels = [disease_labels]
        if isinstance(disease_labels, (list, tuple)) and any(isinstance(row, dict) for row in disease_labels):
            disease_labels = [self._codes(row or {}) for row in disease_labels]
        try:
            codes = torch.as_tensor(disease_labels)
        except (TypeError, ValueError, RuntimeError):
            raise ValueError(
                f"`disease_labels` must be dicts of label to state, or codes [B, {len(self.label_names)}]."
            ) from None
        codes = codes.unsqueeze(0) if codes.dim() == 1 else codes
        if codes.dim() != 2 or codes.shape[1] != len(self.label_names):
            raise ValueError(f"`disease_labels` must be [B, {len(self.label_names)}], got {list(codes.shape)}.")
        wrong = codes[~torch.isin(codes, torch.tensor([UNKNOWN, *range(len(STATES))]).to(codes))]
        if wrong.numel():
            raise ValueError(
                f"{wrong[0].item():g} is no state code; use {dict(enumerate(STATES))} or {UNKNOWN} (predict)."
            )
        return codes.long()

    def _codes(self, states: dict[str, str]) -> list[int]:
        known = {name.lower(): index for index, name in enumerate(self.label_names)}
        codes = [UNKNOWN] * len(self.label_names)
        for label, state in states.items():
            if str(label).lower() not in known:
                close = get_close_matches(str(label), self.label_names, n=1)
                hint = f"did you mean {close[0]!r}?" if close else f"choose from {', '.join(self.label_names)}."
                raise ValueError(f"{label!r} is no label; {hint}")
            if state not in STATES:
                raise ValueError(f"{state!r} is no state of {label!r}; choose from {', '.join(STATES)}.")
            codes[known[label.lower()]] = STATES.index(state)
        return codes

    def label_phrase_ids(self, config: OTDRGConfig) -> list[list[list[int]]]:
        """Token ids of `config.label_phrases`, for `config.label_phrase_ids`."""
        return [self.tokenizer(phrases, add_special_tokens=False)["input_ids"] for phrases in config.label_phrases]

    def label_word_ids(self, config: OTDRGConfig) -> list[list[list[int]]]:
        """
        Token ids of the findings as they stand in the prompt, for `config.label_word_ids`: in the middle of a line, a
        semicolon behind each. A positive label goes by its name, an uncertain one by its phrase; of what is denied or
        not mentioned there are no words.
        """
        words = {POSITIVE: 0, UNCERTAIN: 1 + UNCERTAIN}  # in a row of `label_phrases`, the name comes first
        table: list[list[list[int]]] = [[[] for _ in STATES] for _ in config.label_names]
        for label, phrases in enumerate(config.label_phrases):
            for state, column in words.items():
                table[label][state] = self.tokenizer(f" {phrases[column]};", add_special_tokens=False)["input_ids"]
        return table

    def _pixel_inputs(self, studies: list[list[Image.Image]]) -> dict[str, torch.Tensor]:
        for index, study in enumerate(studies):
            if len(study) == 0:
                raise ValueError(f"Study {index} has no image.")
        pictures = [picture for study in studies for picture in study]
        pixels = self.image_processor(pictures, return_tensors="pt")["pixel_values"]  # [all views, 3, H, W]
        counts = torch.tensor([len(study) for study in studies])
        view_mask = torch.arange(int(counts.max())) < counts[:, None]  # [B, V]
        pixel_values = pixels.new_zeros(*view_mask.shape, *pixels.shape[1:])
        pixel_values[view_mask] = pixels
        return {"pixel_values": pixel_values, "view_mask": view_mask}

    def _expand_placeholders(self, text: str | Sequence[str], view_counts: list[int]) -> list[str]:
        texts = [text] if isinstance(text, str) else list(text)
        if len(texts) != len(view_counts):
            raise ValueError(f"{len(texts)} prompts for {len(view_counts)} studies.")
        for index, (prompt, count) in enumerate(zip(texts, view_counts, strict=True)):
            if prompt.count(IMAGE_TOKEN) != count:
                raise ValueError(
                    f"Image features and image tokens do not match: prompt {index} has {prompt.count(IMAGE_TOKEN)} "
                    f"{IMAGE_TOKEN} for {count} images."
                )
            if prompt.count(FINDING_TOKEN) > 1:
                raise ValueError(f"Prompt {index} has more than one {FINDING_TOKEN}.")
        images, findings = IMAGE_TOKEN * self.num_image_tokens, FINDING_TOKEN * self.num_finding_tokens
        return [prompt.replace(IMAGE_TOKEN, images).replace(FINDING_TOKEN, findings) for prompt in texts]

    @property
    def model_input_names(self) -> list[str]:
        return ["input_ids", "attention_mask", "pixel_values", "view_mask", "disease_labels"]


def _as_studies(images) -> list[list]:
    if not isinstance(images, (list, tuple)):
        return [[images]]
    if len(images) == 0:
        raise ValueError("`images` is an empty list.")
    return [list(study) if isinstance(study, (list, tuple)) else [study] for study in images]


def _per_study(values, count: int, name: str, nested: bool = False) -> list:
    if values is None:
        return [None] * count
    if isinstance(values, str) or (nested and values and isinstance(values[0], str) and count == 1):
        values = [values]
    if len(values) != count:
        raise ValueError(f"`{name}` has {len(values)} entries for {count} studies.")
    return [[value] if nested and isinstance(value, str) else value for value in values]


OTDRGProcessor.register_for_auto_class()

__all__ = ["OTDRGProcessor"]
