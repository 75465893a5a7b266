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
from inspect import signature
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import AutoImageProcessor, BatchFeature, PreTrainedModel, ProcessorMixin
from transformers.image_utils import ImageInput
from transformers.processing_utils import MultiModalData, ProcessingKwargs, Unpack
from transformers.utils import logging

from .configuration_otdrg import CHEXBERT_LABELS, STATES, OTDRGConfig
from .disease_states_otdrg import POSITIVE, UNCERTAIN
from .image_loading import load_views, view_names
from .prompt_otdrg import (
    CHAT_TEMPLATE,
    FINDING_TOKEN,
    IMAGE_TOKEN,
    PARTS_TO_TEXT,
    count_placeholders,
    expand_placeholders,
    parts_of,
    prompt_text,
    reads_parts,
    rename_views,
    view_name,
    with_parts,
    worded_chat,
)

logger = logging.get_logger(__name__)

UNKNOWN = -100
REPORT_TOKENS = 256  # of the LLM's context are left for the report, or a quarter of it where it is short


class OTDRGProcessorKwargs(ProcessingKwargs, total=False):  # type: ignore[call-arg]  # trf-ignore: TRF019
    # Prompts hold their beginning-of-text token, and generation needs them padded left.
    _defaults = {
        "text_kwargs": {
            "padding": True,
            "padding_side": "left",
            "add_special_tokens": False,
            "return_token_type_ids": False,
        },
        "common_kwargs": {"return_tensors": "pt"},
    }


class OTDRGProcessor(ProcessorMixin):  # trf-ignore: TRF057
    r"""
    Joins an image processor and a tokenizer.

    Args:
        image_processor ([`BaseImageProcessor`]): Resizes and normalises one view.
        tokenizer ([`PreTrainedTokenizerBase`]): Knows `<image>` and `<finding>` as single tokens.
        chat_template (`str`, *optional*):
            Overrides the tokenizer's own. Without either, prompts are plain text, and so are chats (`CHAT_TEMPLATE`).
        num_image_tokens (`int`, *optional*, defaults to 196): Visual tokens of one view (`config.image_seq_length`).
        num_finding_tokens (`int`, *optional*):
            Tokens that the labels take (`config.finding_seq_length`). Default: one per label.
        label_names (`list[str]`, *optional*): The labels, in the order of `config.label_names`.
        label_prompt (`bool`, *optional*, defaults to `True`):
            Whether prompts show the LLM the labels. Without, it sees the image alone, as in LLaVA.
        context_length (`int`, *optional*):
            Tokens that the LLM has positions for (`config.context_length`). Default: no bound is known.
    """

    valid_processor_kwargs = OTDRGProcessorKwargs
    chat_template: str | dict[str, str] | None

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
        chat_template = chat_template or tokenizer.chat_template or CHAT_TEMPLATE
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

    def save_pretrained(self, save_directory, push_to_hub: bool = False, **kwargs) -> list[str]:
        """As in transformers; a template that is only the default is not written."""
        template = self.chat_template
        if template == CHAT_TEMPLATE:  # else it would be read as one of the tokenizer's
            self.chat_template = None
        # transformers notes in the processor, too, what it writes for remote code.
        noted = [part for part in (self, self.image_processor) if not hasattr(part, "auto_map")]
        try:
            return super().save_pretrained(save_directory, push_to_hub=push_to_hub, **kwargs)
        finally:
            self.chat_template = template
            for part in noted:
                part.__dict__.pop("auto_map", None)

    def __call__(  # trf-ignore: TRF057
        self,
        images: ImageInput | None = None,
        text: str | Sequence[str] | None = None,
        views: Sequence | None = None,
        indication: str | Sequence[str] | None = None,
        comparison: str | Sequence[str] | None = None,
        disease_labels=None,
        **kwargs: Unpack[OTDRGProcessorKwargs],
    ) -> BatchFeature:
        r"""
        Prepares one study or a batch of them.

        Args:
            images:
                One image (a study of one view), a list of images (a batch of such studies) or a list of lists (the
                views of each study). Everything that [`load_radiograph`] takes is an image. With `text`, a list of
                images may hold as many as the prompts have `<image>`, in their order, and a study may have no view.
            text (`str` or `list[str]`, *optional*):
                A prompt per study with one `<image>` per view and at most one `<finding>`. Default: `build_prompt`.
            views (`list[str]` or `list[list[str]]`, *optional*):
                `"frontal"`, `"lateral"` or `"unknown"` per image. Default: what DICOM files say, else `"unknown"`.
            indication, comparison (`str` or `list[str]`, *optional*):
                Why the image was taken; the earlier report. What the LLM's context has no room for is cut, see
                `build_prompt`.
            disease_labels (*optional*):
                Known states: a dict such as `{"Pneumothorax": "positive"}` per study, or codes `[B, m]`.
            kwargs:
                For the image processor (such as `do_normalize`) or the tokenizer (such as `max_length`), as they are
                or in `images_kwargs` and `text_kwargs`. Default: `padding=True`, `padding_side="left"`,
                `return_tensors="pt"`; `return_tensors=None` gives lists.

        Returns:
            [`BatchFeature`] with `input_ids`, `attention_mask`, `pixel_values` `[B, V, 3, H, W]`, `view_mask` `[B, V]`
            and, if given, `disease_labels` `[B, m]`.

        Raises:
            ValueError: for an image, label, state, prompt or keyword that cannot be used, naming it, a prompt that is
                longer than the LLM's context, or one in which truncation cuts placeholders.
        """
        options = self._options(kwargs)
        if images is None and (text is None or (isinstance(text, (list, tuple)) and not text)):
            raise ValueError("The processor needs `images`, `text` or both.")
        context = {"views": views, "indication": indication, "comparison": comparison}
        if text is not None and (unread := [name for name, value in context.items() if value is not None]):
            raise ValueError(f"`{unread[0]}` goes into the default prompt: write it into `text`, or leave `text` out.")
        data: dict[str, torch.Tensor] = {}
        prompts = [] if text is None else _texts(text)
        counts = [count_placeholders(IMAGE_TOKEN, prompt) for prompt in prompts]
        if images is not None:
            given = _as_studies(images, None if text is None else counts)
            studies = [load_views(study, f"study {index}") for index, study in enumerate(given)]
            prompts = self._prompts(studies, views, indication, comparison) if text is None else prompts
            texts = self._expand_placeholders(prompts, [len(study) for study in studies])
            if any(studies):
                data = self._pixel_inputs(studies, options["images_kwargs"])
        elif any(counts):
            raise ValueError(f"Image features and image tokens do not match: {IMAGE_TOKEN} in the text, but no images.")
        else:  # placeholders of findings stay as they are
            prompts, texts = [], prompts
        if disease_labels is not None:
            data["disease_labels"] = self.encode_labels(disease_labels)
            _per_study(data["disease_labels"], len(texts), "disease_labels")
        tokens = self._tokens(texts, prompts, options)
        if images is not None:
            self._check_lengths(tokens)
        return self._converted(tokens, data, options["text_kwargs"]["return_tensors"])

    def _options(self, kwargs: dict[str, Any]) -> dict[str, Any]:
        """Keywords by what they are for, with defaults; `ValueError` for one that is for nothing."""
        self._check_keywords(kwargs)
        media = {name: value for name, value in kwargs.items() if name in ("videos", "audio")}
        if unread := [name for name, value in media.items() if value is not None]:
            raise ValueError(f"`{unread[0]}` cannot be given: OTDRG reads images and text.")
        # The tokenizer's own padding counts, as in transformers; but not its side, nor its special tokens.
        made_with = {
            name: value for name, value in self.tokenizer.init_kwargs.items() if name in ("padding", "max_length")
        }
        given = {name: value for name, value in kwargs.items() if name not in media}
        try:
            options = self._merge_kwargs(OTDRGProcessorKwargs, tokenizer_init_kwargs=made_with, **given)
        except Exception as error:  # transformers' checks of types raise classes of their own
            raise ValueError(" ".join(str(error).split())) from None
        if options["text_kwargs"]["return_tensors"] not in ("pt", "np", None):
            raise ValueError(f"return_tensors={options['text_kwargs']['return_tensors']!r}: choose 'pt', 'np' or None.")
        return options

    def _check_keywords(self, kwargs: dict[str, Any]):
        hints = OTDRGProcessorKwargs.__annotations__
        groups = {name: set(getattr(hint, "__annotations__", ())) for name, hint in hints.items()}
        groups["images_kwargs"] |= set(getattr(self.image_processor.valid_kwargs, "__annotations__", ()))
        own = [name for name in signature(type(self).__call__).parameters if name not in ("self", "kwargs")]
        flat = [*own, *sorted({*groups, "common_kwargs", "videos", "audio"}.union(*groups.values()))]
        nested = [(name, sorted(groups[name])) for name in ("images_kwargs", "text_kwargs") if name in kwargs]
        for given, known in [(kwargs, flat), *((kwargs[name] or (), known) for name, known in nested)]:
            for name in given:
                if name not in known:
                    close = get_close_matches(name, known, n=1)
                    hint = f"; did you mean {close[0]!r}?" if close else "."
                    raise ValueError(f"The processor has no keyword {name!r}{hint}")

    def _prompts(self, studies: list[list[Image.Image]], views, indication, comparison) -> list[str]:
        for index, study in enumerate(studies):
            if len(study) == 0:
                raise ValueError(f"Study {index} has no image.")
        views = _per_study(views, len(studies), "views", nested=True)
        views = [view_names(study, given) for study, given in zip(studies, views, strict=True)]
        indication = _per_study(indication, len(studies), "indication")
        comparison = _per_study(comparison, len(studies), "comparison")
        return [
            self.build_prompt(len(study), *context)
            for study, *context in zip(studies, views, indication, comparison, strict=True)
        ]

    def _tokens(self, texts: list[str], prompts: list[str], options: dict[str, Any]) -> dict[str, list]:
        """What the tokenizer makes of `texts`, which are `prompts` with placeholders expanded, as lists."""
        text_options = {key: value for key, value in options["text_kwargs"].items() if key != "return_tensors"}
        wanted = {
            name: text_options.pop(name, None) or options.get(name)
            for name in ("return_mm_token_type_ids", "return_text_replacement_offsets")
        }
        tokens = dict(self.tokenizer(texts, **text_options))
        self._check_truncation(texts, tokens["input_ids"])
        if wanted["return_mm_token_type_ids"]:
            tokens["mm_token_type_ids"] = self.create_mm_token_type_ids(tokens["input_ids"])
        if wanted["return_text_replacement_offsets"]:
            tokens["text_replacement_offsets"] = [
                expand_placeholders(prompt, self._placeholder_lengths)[1] for prompt in prompts
            ]
        return tokens

    def _check_truncation(self, texts: list[str], rows: list[list[int]]):
        if len(texts) != len(rows):
            raise ValueError("return_overflowing_tokens=True cannot be: a prompt is one row.")
        for index, (text, row) in enumerate(zip(texts, rows, strict=True)):
            for token, token_id in ((IMAGE_TOKEN, self.image_token_id), (FINDING_TOKEN, self.finding_token_id)):
                if row.count(token_id) != (expected := count_placeholders(token, text)):
                    raise ValueError(
                        f"Prompt {index} has {row.count(token_id)} of its {expected} {token} tokens left after "
                        "truncation: raise max_length or leave truncation out."
                    )

    def _converted(self, tokens: dict[str, list], data: dict[str, torch.Tensor], return_tensors) -> BatchFeature:
        skipped = {name: tokens.pop(name) for name in self.skip_tensor_conversion if name in tokens}
        try:
            tokens = dict(BatchFeature(tokens, tensor_type=return_tensors))
        except ValueError:
            raise ValueError("The prompts differ in length: leave padding on, or give return_tensors=None.") from None
        converted: dict[str, Any] = dict(data)
        if return_tensors != "pt":
            converted = {name: value.numpy() for name, value in data.items()}
        if return_tensors is None:  # pixels stay arrays, one per study, as in transformers
            converted = {
                name: list(value) if name == "pixel_values" else value.tolist() for name, value in converted.items()
            }
        return BatchFeature({**tokens, **converted, **skipped})

    def replace_image_token(self, image_inputs: dict, image_idx: int, **kwargs) -> str:
        """The placeholders of one view."""
        return self.image_token * self.num_image_tokens

    def _get_num_multimodal_tokens(self, image_sizes: Sequence | None = None, **kwargs) -> MultiModalData:
        """Placeholders of views of the given sizes: as many for any size."""
        views = 0 if image_sizes is None else len(image_sizes)
        return MultiModalData(num_image_tokens=[self.num_image_tokens] * views, num_image_patches=[1] * views)

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
            view_name(name)
        given = {"indication": indication, "comparison": comparison}
        known = {name: self._plain(text, name) if text else "" for name, text in given.items()}
        if fit and self.context_length is not None:
            known = self._fitting(names, known, self.context_length)
        return self._prompt(names, **known)

    def prompt_tokens(self, prompt: str, views: Sequence[str]) -> dict[str, list[int]]:
        """Token ids and mask of a prompt of `build_prompt` in which the images are called by these views instead."""
        [text] = self._expand_placeholders([rename_views(prompt, views)], [len(views)])
        tokens = self.tokenizer(text, add_special_tokens=False)
        return {name: tokens[name] for name in ("input_ids", "attention_mask")}

    def _prompt(self, views: Sequence[str], indication: str, comparison: str) -> str:
        prompt = prompt_text(views, indication, comparison, self.label_prompt)
        template = self._template()
        if template == CHAT_TEMPLATE:
            return (self.tokenizer.bos_token or "") + prompt
        turn = [{"role": "user", "content": prompt}]
        return self.tokenizer.apply_chat_template(
            turn, chat_template=template, tokenize=False, add_generation_prompt=True
        )

    def _template(self, name: str | None = None) -> str:
        """The chat template of this name or text, by default the processor's own or the tokenizer's."""
        own = self.chat_template
        template = own if own and own != CHAT_TEMPLATE else self.tokenizer.chat_template or CHAT_TEMPLATE
        if isinstance(template, dict):
            if name is None and "default" not in template:
                raise ValueError(f"None of the chat templates {sorted(template)} is the default: name one.")
            return template.get(name or "default") or str(name)
        return name or template

    def apply_chat_template(  # trf-ignore: TRF057
        self, conversation: list, chat_template: str | None = None, **kwargs
    ):
        """
        As in transformers: `tokenize=True, return_dict=True` gives what `generate` takes.

        Images are parts of messages, `{"type": "image", "image": ...}` (or `"url"`, `"path"`, `"base64"`), and may name
        their `"view"`. They are worded as in `build_prompt`, followed by the labels; a turn of images alone asks for a
        report, as training does. A template that reads text only gets the parts as one text.

        Args:
            conversation (`list[dict]` or `list[list[dict]]`): Messages, or a batch of conversations.
            chat_template (`str`, *optional*): A template or the name of one.
        """
        template = self._template(chat_template)
        batched = bool(conversation) and not isinstance(conversation[0], dict)
        chats = [[with_parts(message) for message in chat] for chat in (conversation if batched else [conversation])]
        images = any(part["type"] == "image" for chat in chats for message in chat for part in parts_of(message))
        plain = template == CHAT_TEMPLATE
        parts_read = plain or reads_parts(template, images, {**self.tokenizer.special_tokens_map, **kwargs})
        worded = [worded_chat(chat, self.label_prompt, plain, parts_read) for chat in chats]
        if not parts_read:
            template = PARTS_TO_TEXT + template
        return super().apply_chat_template(worded if batched else worded[0], chat_template=template, **kwargs)

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
        return f"{self.build_beginning(report)}{self.tokenizer.eos_token}"

    def build_beginning(self, draft: str, name: str = "report") -> str:
        """A report, or the beginning of one, as it follows the prompt; `name` is what errors call it."""
        # A chat template may end with a line break, after which no text begins with a space.
        space = "" if self._prompt(["unknown"], "", "")[-1].isspace() else " "
        return f"{space}{self._plain(draft, name)}"

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
            if not all(row is None or isinstance(row, dict) for row in disease_labels):
                raise ValueError("`disease_labels` must be all dicts of label to state, or all codes.")
            disease_labels = [self._codes(row or {}) for row in disease_labels]
        try:
            codes = torch.as_tensor(disease_labels)
            codes = codes if codes.is_floating_point() else codes.long()  # in which -100 is what it is
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
                f"{wrong[0].item():g} is not a state code; use {dict(enumerate(STATES))} or {UNKNOWN} (predict)."
            )
        return codes.long()

    def _codes(self, states: dict[str, str]) -> list[int]:
        known = {name.lower(): index for index, name in enumerate(self.label_names)}
        codes = [UNKNOWN] * len(self.label_names)
        for label, state in states.items():
            if str(label).lower() not in known:
                close = get_close_matches(str(label), self.label_names, n=1)
                hint = f"did you mean {close[0]!r}?" if close else f"choose from {', '.join(self.label_names)}."
                raise ValueError(f"{label!r} is not a label; {hint}")
            if state not in STATES:
                raise ValueError(f"{state!r} is not a state of {label!r}; choose from {', '.join(STATES)}.")
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

    def _pixel_inputs(self, studies: list[list[Image.Image]], options: dict[str, Any]) -> dict[str, torch.Tensor]:
        images = [image for study in studies for image in study]
        pixels = self.image_processor(images, **{**options, "return_tensors": "pt"})["pixel_values"]  # [views, 3, H, W]
        counts = torch.tensor([len(study) for study in studies])
        view_mask = torch.arange(int(counts.max())) < counts[:, None]  # [B, V]
        pixel_values = pixels.new_zeros(*view_mask.shape, *pixels.shape[1:])
        pixel_values[view_mask] = pixels
        return {"pixel_values": pixel_values, "view_mask": view_mask}

    def plain_pixels(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Pixels from 0 to 1 of what the image processor made `[..., 3, H, W]`, fp32."""
        pixels, images = pixel_values.float(), self.image_processor
        if not images.do_normalize:
            return pixels
        mean, std = (pixels.new_tensor(each).view(-1, 1, 1) for each in (images.image_mean, images.image_std))
        return pixels * std + mean

    def normalised_pixels(self, pixels: torch.Tensor) -> torch.Tensor:
        """What the image processor makes of pixels from 0 to 1 of its size: the inverse of `plain_pixels`."""
        images = self.image_processor
        if not images.do_normalize:
            return pixels
        mean, std = (pixels.new_tensor(each).view(-1, 1, 1) for each in (images.image_mean, images.image_std))
        return (pixels - mean) / std

    def _expand_placeholders(self, text: str | Sequence[str], view_counts: list[int]) -> list[str]:
        texts = [text] if isinstance(text, str) else list(text)
        rule = f"the number of {IMAGE_TOKEN} tokens in the prompts should be the same as the number of images"
        if len(texts) != len(view_counts):
            raise ValueError(f"{len(texts)} prompts for {len(view_counts)} studies: {rule}.")
        for index, (prompt, count) in enumerate(zip(texts, view_counts, strict=True)):
            if (tokens := count_placeholders(IMAGE_TOKEN, prompt)) != count:
                raise ValueError(
                    f"Image features and image tokens do not match: prompt {index} has {tokens} {IMAGE_TOKEN} for "
                    f"{count} images; {rule}."
                )
            if (tokens := count_placeholders(FINDING_TOKEN, prompt)) > 1:
                raise ValueError(f"Prompt {index} has more than one {FINDING_TOKEN}.")
            if tokens and not count:
                raise ValueError(f"Prompt {index} has {FINDING_TOKEN}, but no image.")
        return [expand_placeholders(prompt, self._placeholder_lengths)[0] for prompt in texts]

    @property
    def _placeholder_lengths(self) -> dict[str, int]:
        return {IMAGE_TOKEN: self.num_image_tokens, FINDING_TOKEN: self.num_finding_tokens}

    @property
    def model_input_names(self) -> list[str]:
        return ["input_ids", "attention_mask", "pixel_values", "view_mask"]


def _texts(text: str | Sequence[str]) -> list[str]:
    texts = [text] if isinstance(text, str) else list(text)
    if not all(isinstance(each, str) for each in texts):
        raise ValueError("`text` must be a prompt or a list of prompts.")
    return texts


def _as_studies(images, counts: list[int] | None) -> list[list]:
    """The views of each study; images in one list are shared out by the number of `<image>` of each prompt."""
    if not isinstance(images, (list, tuple)):
        return [[images]]
    if len(images) == 0:
        raise ValueError("`images` is an empty list.")
    nested = any(isinstance(study, (list, tuple)) for study in images)
    if counts is not None and not nested and sum(counts) == len(images):
        shared = iter(images)
        return [[next(shared) for _ in range(count)] for count in counts]
    return [list(study) if isinstance(study, (list, tuple)) else [study] for study in images]


def _per_study(values, count: int, name: str, nested: bool = False) -> list:
    if values is None:
        return [None] * count
    values = values.tolist() if isinstance(values, np.ndarray) else values
    if isinstance(values, str) or (nested and values and isinstance(values[0], str) and count == 1):
        values = [values]
    if len(values) != count:
        raise ValueError(f"`{name}` has {len(values)} entries for {count} studies.")
    return list(values)


OTDRGProcessor.register_for_auto_class()

__all__ = ["OTDRGProcessor"]
