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
"""Configuration of OTDRG: a vision encoder, an optimal-transport alignment with disease labels, and an LLM."""

import dataclasses
import math
from collections.abc import Iterable
from typing import ClassVar

from transformers import AutoConfig, PreTrainedConfig
from transformers.configuration_utils import SubConfigSpec

CHEXBERT_LABELS = (
    "Enlarged Cardiomediastinum",
    "Cardiomegaly",
    "Lung Opacity",
    "Lung Lesion",
    "Edema",
    "Consolidation",
    "Pneumonia",
    "Atelectasis",
    "Pneumothorax",
    "Pleural Effusion",
    "Pleural Other",
    "Fracture",
    "Support Devices",
    "No Finding",
)
COUPLINGS = ("transport", "unbalanced", "attention", "pooling")
STATES = ("blank", "positive", "negative", "uncertain")  # the index is the code
NUM_STATES = len(STATES)
# Of earlier checkpoints: now arguments of training, or fixed.
FORMER_FIELDS = ("predicted_label_rate", "told_label_rate", "contrast_temperature", "label_states")
CONTEXT_FIELDS = ("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "max_sequence_length")
PHRASE_TEMPLATES = ("{} is not mentioned", "{} is present", "no {}", "possible {}")


# `strict` (TRF010) refuses an int for a float, as in `epsilon=1`, and names no expected range: see `_validate_numbers`.
# trf-ignore: TRF010
class OTDRGConfig(PreTrainedConfig):  # trf-ignore: TRF057 (see modeling_otdrg.py)
    r"""
    Configuration of an [`OTDRGForConditionalGeneration`].

    Args:
        vision_config (`PreTrainedConfig` or `dict`, *optional*, defaults to a ViT):
            Any configuration that `AutoModel` builds a vision encoder from.
        text_config (`PreTrainedConfig` or `dict`, *optional*, defaults to a Llama):
            Any configuration that `AutoModel` builds a decoder-only language model from.
        label_names (`list[str]`, *optional*, defaults to the 14 CheXbert labels):
            The diseases and devices, in the order of `disease_labels` and `disease_logits`.
        label_phrases (`list[list[str]]`, *optional*):
            For each label, one phrase for its name and one per state, `[m][1 + states]`. Default: from templates.
        label_phrase_ids (`list[list[list[int]]]`, *optional*):
            The same phrases as token ids of the LLM's tokenizer (see [`OTDRGProcessor.label_phrase_ids`]). Needed to
            build a model; `from_backbones` fills it.
        label_word_ids (`list[list[list[int]]]`, *optional*):
            The words of each state as they read in the prompt, `[m][states]`, as token ids; none for what is left out.
            See [`OTDRGProcessor.label_word_ids`]. Needed with `label_words`; `from_backbones` fills it.
        label_feature_size (`int`, *optional*):
            Width of features of the phrases that a text encoder gave and the checkpoint holds (see
            `from_backbones(..., label_encoder=...)`). Default: none, phrases are the mean of the LLM's embeddings.
        no_finding_label (`str`, *optional*, defaults to `"No Finding"`):
            The label that holds exactly when no other label but `device_labels` is positive or uncertain.
        device_labels (`list[str]`, *optional*, defaults to `["Support Devices"]`):
            Labels that do not contradict `no_finding_label`.
        image_token_id (`int`, *optional*, defaults to 3): Placeholder of one visual token in `input_ids`.
        finding_token_id (`int`, *optional*, defaults to 4): Placeholder of one label token in `input_ids`.
        vision_feature_size (`int`, *optional*):
            Width of the encoder's patch features. Default: `hidden_size`, or the last of `hidden_sizes`.
        image_grid (`list[int]`, *optional*, defaults to `[14, 14]`):
            Rows and columns of patches that the encoder gives for one view.
        patch_offset (`list[float]`, *optional*, defaults to `[0.0, 0.0]`):
            By how many patches, down and right, the centre of what a patch sees lies from that of its place in an even
            grid: not 0 for encoders whose strided convolutions overlap, such as a ResNet. Evidence maps heed it.
        label_words (`int`, *optional*, defaults to 0):
            Tokens of the prompt that state the labels in words, before the token of each label. Checkpoints from before
            have none.
        image_token_pooling (`int`, *optional*, defaults to 1):
            Side of the square of patches averaged into one visual token of the LLM. Transport sees all patches.
        lm_head_bias (`bool`, *optional*, defaults to `False`): Whether the projection onto the vocabulary has a bias.
        alignment_dim (`int`, *optional*, defaults to 256): Width *d* of the space shared by patches and labels.
        coupling (`str`, *optional*, defaults to `"transport"`):
            How patches and labels are coupled: `"transport"`, or, to compare it with, `"unbalanced"`, `"attention"` or
            `"pooling"`.
        patch_relaxation (`float`, *optional*, defaults to 0.1):
            Weight, in units of the cost, of the KL term that draws patch masses to their marginal when unbalanced.
        epsilon (`float`, *optional*, defaults to 0.05): Entropic regularisation, in units of the cosine cost (0 to 2).
        max_iterations (`int`, *optional*, defaults to 100): Bound on Sinkhorn iterations.
        tolerance (`float`, *optional*, defaults to 1e-4): Marginal error (L1, of a total mass of 1) at which they stop.
        solver (`str`, *optional*, defaults to `"sinkhorn"`): `"sinkhorn"` (ours) or `"pot"` (needs POT).
        background_mass (`float`, *optional*, defaults to 0.5):
            Share of the patch mass that goes to no label, between 0 (no background) and 1 (exclusive).
        state_masses (`list[float]`, *optional*, defaults to `[0.25, 1.0, 0.5, 1.0]`):
            Relative label mass of each state; a positive label claims more of the image than a denied one.
        ot_loss_weight (`float`, *optional*, defaults to 0.3): Weight of the transport loss.
        disease_loss_weight (`float`, *optional*, defaults to 1.0): Weight of the disease loss.
        positive_thresholds (`list[float]`, *optional*):
            Probability from which each label counts as positive, chosen on validation. Default: the likeliest state.
        score_calibration (`list[list[float]]`, *optional*):
            Slope and intercept `[m][2]` that map the log-odds of positive to calibrated ones (Platt scaling), fitted on
            validation. Default: as they are.
        operating_curves (`dict[str, list[list[float]]]`, *optional*):
            For each label but `no_finding_label` the thresholds that an operating point may take, rows of score,
            precision and recall on validation from the highest score down; none for a label without a positive study.
            Needs `positive_thresholds`.
        conformal_thresholds (`dict[str, list[float]]`, *optional*):
            For each label the probability from which positive is plausible, and that from which another state is.
        conformal_error_rate (`float`, *optional*):
            How often, at most, the plausible states of a label lack the true one, with `conformal_thresholds`.
        state_priors (`list[list[float]]`, *optional*):
            Frequencies of the states in the training data, `[m][states]`, added to the disease logits as log priors.
        sentence_calibration (`dict[str, float]`, *optional*):
            Weights of what speaks for a sentence of a report, fitted on validation, that give the log-odds of its being
            right. See `otdrg_hf.reporting.sentences`. Default: sentences have no confidence.
        input_statistics (`str`, *optional*):
            What the training images look like to the vision encoder, as [`InputStatistics`] packs it, so that the
            pipeline knows an unfamiliar image and the view of a familiar one. Default: none, and it does not.
        notice (`str`, *optional*): One line that the pipeline warns with, such as what the model was trained on.
        trained_on_reports (`bool`, *optional*, defaults to `True`):
            Whether the LLM has learned to write reports from a study. Without, as where backbones were only joined or
            aligned, the pipeline warns that what it writes means nothing.
        training_data (`list[str]`, *optional*): The datasets that the model was trained on, as training recorded them.

    Raises:
        ValueError: for every setting that cannot work, naming the field, its value and what is expected.
    """

    model_type = "otdrg"
    attribute_map: ClassVar[dict[str, str]] = {"image_token_index": "image_token_id"}
    sub_configs_defaults = {
        "vision_config": SubConfigSpec(config_class=AutoConfig, model_type="vit"),
        "text_config": SubConfigSpec(config_class=AutoConfig, model_type="llama"),
    }

    # `None` and dicts become configurations in `__post_init__`, as in `label_phrases` and `vision_feature_size` below.
    vision_config: PreTrainedConfig = None
    text_config: PreTrainedConfig = None
    label_names: list[str] | tuple[str, ...] = CHEXBERT_LABELS
    label_phrases: list[list[str]] = None  # type: ignore[assignment]
    label_phrase_ids: list[list[list[int]]] | None = None
    label_word_ids: list[list[list[int]]] | None = None
    label_feature_size: int | None = None
    no_finding_label: str | None = "No Finding"
    device_labels: list[str] | tuple[str, ...] = ("Support Devices",)
    image_token_id: int = 3
    finding_token_id: int = 4
    vision_feature_size: int = None  # type: ignore[assignment]
    image_grid: list[int] | tuple[int, ...] = (14, 14)
    patch_offset: list[float] | tuple[float, ...] = (0.0, 0.0)
    label_words: int = 0
    image_token_pooling: int = 1
    lm_head_bias: bool = False
    alignment_dim: int = 256
    coupling: str = "transport"
    patch_relaxation: float = 0.1
    epsilon: float = 0.05
    max_iterations: int = 100
    tolerance: float = 1e-4
    solver: str = "sinkhorn"
    background_mass: float = 0.5
    state_masses: list[float] | tuple[float, ...] = (0.25, 1.0, 0.5, 1.0)
    ot_loss_weight: float = 0.3
    disease_loss_weight: float = 1.0
    positive_thresholds: list[float] | None = None
    score_calibration: list[list[float]] | None = None
    operating_curves: dict[str, list[list[float]]] | None = None
    conformal_thresholds: dict[str, list[float]] | None = None
    conformal_error_rate: float | None = None
    state_priors: list[list[float]] | None = None
    sentence_calibration: dict[str, float] | None = None
    input_statistics: str | None = None
    notice: str | None = None
    trained_on_reports: bool = True
    training_data: list[str] | None = None
    tie_word_embeddings: bool = False

    def __post_init__(self, **kwargs):
        # pipeline() takes a config with `custom_pipelines` for remote code and asks for trust even when the task is
        # registered here, so the entry is kept only where this very class came as remote code.
        if not type(self).__module__.startswith("transformers_modules"):
            kwargs.pop("custom_pipelines", None)
        for name in FORMER_FIELDS:
            kwargs.pop(name, None)
        super().__post_init__(**kwargs)
        self.tie_word_embeddings = bool(self.tie_word_embeddings or self.text_config.tie_word_embeddings)
        self.label_names = list(self.label_names)
        self.device_labels = list(self.device_labels)
        self.state_masses = list(self.state_masses)
        self.image_grid, self.patch_offset = list(self.image_grid), list(self.patch_offset)
        if self.label_phrases is None:
            self.label_phrases = [self._default_phrases(name) for name in self.label_names]
        if self.vision_feature_size is None:
            self.vision_feature_size = _feature_size(self.vision_config)
        self._validate_labels()
        self._validate_numbers()

    def _default_phrases(self, name: str) -> list[str]:
        if name == self.no_finding_label:
            return [name.lower(), "some finding", "no finding, a normal study", "not a normal study", "perhaps normal"]
        return [name.lower(), *(template.format(name.lower()) for template in PHRASE_TEMPLATES)]

    @property
    def num_disease_labels(self) -> int:
        return len(self.label_names)

    @property
    def context_length(self) -> int | None:
        """Tokens that the LLM has positions for, prompt and report together; `None` where there is no bound."""
        return context_length(self.text_config)

    @property
    def image_seq_length(self) -> int:
        """Visual tokens that one view takes in the prompt."""
        rows, columns = (-(-side // self.image_token_pooling) for side in self.image_grid)
        return rows * columns

    @property
    def finding_seq_length(self) -> int:
        """Tokens that the labels take in the prompt: words, and one token per label."""
        return self.label_words + self.num_disease_labels

    def _validate_labels(self):
        m, states = self.num_disease_labels, NUM_STATES
        if m == 0 or len(set(self.label_names)) != m:
            raise ValueError(f"`label_names` must be distinct and not empty, got {self.label_names}.")
        unknown = set(self.device_labels) - set(self.label_names)
        if unknown and self.label_names == list(CHEXBERT_LABELS):
            raise ValueError(f"`device_labels` names {sorted(unknown)}, which is not among `label_names`.")
        self._check_table("label_phrases", self.label_phrases, 1 + states)
        if self.label_phrase_ids is not None:
            self._check_table("label_phrase_ids", self.label_phrase_ids, 1 + states)
            if any(len(ids) == 0 for label in self.label_phrase_ids for ids in label):
                raise ValueError("`label_phrase_ids` holds a phrase without tokens.")
        if self.label_word_ids is not None:
            self._check_table("label_word_ids", self.label_word_ids, states)
        elif self.label_words:
            raise ValueError("`label_words` needs `label_word_ids`: see OTDRGProcessor.label_word_ids(config).")
        if self.state_priors is not None:
            self._check_table("state_priors", self.state_priors, states)
            if not all(p > 0 for label in self.state_priors for p in label):
                raise ValueError("`state_priors` must be > 0: smooth the counts before taking frequencies.")
        if self.score_calibration is not None:
            self._check_table("score_calibration", self.score_calibration, 2)
            if not all(slope > 0 for slope, _ in self.score_calibration):
                raise ValueError("`score_calibration` must have slopes > 0: a score rises with what is seen.")
        self._validate_sentences()
        if len(self.state_masses) != states or not all(mass > 0 for mass in self.state_masses):
            raise ValueError(f"`state_masses` must be {states} numbers > 0, got {self.state_masses}.")
        if self.positive_thresholds is not None and (
            len(self.positive_thresholds) != m or not all(0 <= t <= 1 for t in self.positive_thresholds)
        ):
            raise ValueError(f"`positive_thresholds` must be {m} numbers in [0, 1], got {self.positive_thresholds}.")
        self._validate_decisions()

    def _validate_sentences(self):
        weights = {} if self.sentence_calibration is None else self.sentence_calibration
        if not isinstance(weights, dict) or not all(
            isinstance(weight, (int, float)) and math.isfinite(weight) for weight in weights.values()
        ):
            raise ValueError(f"`sentence_calibration` must map names to numbers, got {weights!r}.")

    def _validate_decisions(self):
        if self.operating_curves is not None:
            if self.positive_thresholds is None:
                raise ValueError("`operating_curves` need `positive_thresholds`, the point that they depart from.")
            self._check_by_label(
                "operating_curves", [name for name in self.label_names if name != self.no_finding_label]
            )
            rows = [row for curve in self.operating_curves.values() for row in curve]
            if not all(len(row) == 3 and all(0 <= value <= 1 for value in row) for row in rows):
                raise ValueError("`operating_curves` must have rows of score, precision and recall, all in [0, 1].")
        if self.conformal_thresholds is not None:
            self._check_by_label("conformal_thresholds", self.label_names)
            pairs = self.conformal_thresholds.values()
            if not all(len(pair) == 2 and all(0 <= value <= 1 for value in pair) for pair in pairs):
                raise ValueError("`conformal_thresholds` must be two numbers in [0, 1] for each label.")
            if self.conformal_error_rate is None or not 0 < self.conformal_error_rate < 1:
                raise ValueError(
                    f"`conformal_error_rate` must be between 0 and 1 with `conformal_thresholds`, got "
                    f"{self.conformal_error_rate}."
                )

    def _check_by_label(self, name: str, labels: Iterable[str]):
        if set(getattr(self, name)) != set(labels):
            raise ValueError(f"`{name}` must have an entry for each of {', '.join(labels)}, and no other.")

    def _check_table(self, name: str, table: list, columns: int):
        if len(table) != self.num_disease_labels or any(len(row) != columns for row in table):
            raise ValueError(f"`{name}` must have {self.num_disease_labels} rows (labels) of {columns} entries.")

    def _validate_numbers(self):
        for field in dataclasses.fields(self):  # YAML takes 1e-4 for text
            value = getattr(self, field.name)
            if field.type in (int, float) and not isinstance(value, (int, float)):
                raise ValueError(f"`{field.name}` must be a number, got {value!r}.")
        for name in ("epsilon", "patch_relaxation", "tolerance"):
            if not getattr(self, name) > 0:
                raise ValueError(f"`{name}` must be > 0, got {getattr(self, name)}.")
        for name in ("max_iterations", "alignment_dim", "image_token_pooling", "vision_feature_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` must be at least 1, got {getattr(self, name)}.")
        for name in ("label_words", "ot_loss_weight", "disease_loss_weight"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"`{name}` must be >= 0, got {getattr(self, name)}.")
        if not 0 <= self.background_mass < 1:
            raise ValueError(f"`background_mass` must be in [0, 1), got {self.background_mass}.")
        if self.coupling not in COUPLINGS:
            raise ValueError(f"`coupling` must be one of {', '.join(COUPLINGS)}, got {self.coupling!r}.")
        if self.solver not in ("sinkhorn", "pot"):
            raise ValueError(f"`solver` must be 'sinkhorn' or 'pot', got {self.solver!r}.")
        if len(self.image_grid) != 2 or min(self.image_grid) < 1:
            raise ValueError(f"`image_grid` must be [rows, columns], both at least 1, got {self.image_grid}.")
        if len(self.patch_offset) != 2 or not all(-1 < offset < 1 for offset in self.patch_offset):
            raise ValueError(f"`patch_offset` must be [down, right], both in (-1, 1), got {self.patch_offset}.")
        if self.image_token_id == self.finding_token_id:
            raise ValueError(f"`image_token_id` and `finding_token_id` are both {self.image_token_id}.")


def context_length(text_config: PreTrainedConfig) -> int | None:
    """Tokens that a language model has positions for, by the names of its family; `None` where there is no bound."""
    values = (getattr(text_config, name, None) for name in CONTEXT_FIELDS)
    return next((value for value in values if isinstance(value, int) and value > 0), None)


def _feature_size(vision_config: PreTrainedConfig) -> int:
    sizes = getattr(vision_config, "hidden_sizes", None)
    size = sizes[-1] if sizes else getattr(vision_config, "hidden_size", None)
    if size is None:
        raise ValueError(
            f"`vision_feature_size` must be given: {type(vision_config).__name__} has no hidden_size or hidden_sizes."
        )
    return size


__all__ = ["OTDRGConfig"]
