"""Features of label phrases from a pretrained text encoder, as an alternative to the embeddings of the LLM."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from transformers import AutoConfig, AutoModel, AutoTokenizer, PreTrainedModel


@torch.no_grad()
def encode_label_phrases(encoder_id: str, phrases: list[list[str]]) -> torch.Tensor:
    r"""
    Encodes the phrases of `config.label_phrases` for a model with `config.label_feature_size`.

    Encoders that were trained with images (CLIP, SigLIP) give the features that they compare with images; others,
    BERT, T5 or a language model, the mean of the last hidden states of a phrase.

    Args:
        encoder_id (`str`): Folder or Hub id of a text encoder with a tokenizer.
        phrases (`list[list[str]]`): For each label, one phrase for its name and one per state, `[m][1 + states]`.

    Returns:
        `torch.FloatTensor` of shape `[m, 1 + states, h]`.

    Raises:
        ValueError: if `encoder_id` holds no text encoder.
    """
    with _named(encoder_id):
        tokenizer = AutoTokenizer.from_pretrained(encoder_id)
        encoder = _checked(AutoModel.from_pretrained(encoder_id)).eval()
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    # As they were trained: the text towers of some read the last position, whatever it holds.
    padding = {"padding": "max_length", "truncation": True} if _compares_images(encoder) else {"padding": True}
    batch = tokenizer([phrase for label in phrases for phrase in label], return_tensors="pt", **padding)
    features = _features(encoder, batch["input_ids"], batch["attention_mask"])  # [m * (1 + states), h]
    return features.float().unflatten(0, (len(phrases), -1))


@torch.no_grad()
def label_feature_size(encoder_id: str | None) -> int | None:
    """The width *h* of what `encode_label_phrases` gives, without reading weights; `None` for none. Raises the same."""
    if encoder_id is None:
        return None
    with _named(encoder_id), torch.device("meta"):
        encoder = _checked(AutoModel.from_config(AutoConfig.from_pretrained(encoder_id)))
        return _features(encoder, torch.ones(1, 2, dtype=torch.long), None).shape[-1]


def _checked(encoder: PreTrainedModel) -> PreTrainedModel:
    if not _compares_images(encoder) and encoder.main_input_name != "input_ids":
        raise ValueError(f"{type(encoder).__name__} reads {encoder.main_input_name}")
    return encoder


def _compares_images(encoder: PreTrainedModel) -> bool:
    return hasattr(encoder, "get_text_features")


def _features(encoder: PreTrainedModel, input_ids: torch.Tensor, attention_mask: torch.Tensor | None) -> torch.Tensor:
    """`[N, T]` -> `[N, h]`."""
    inputs = {"input_ids": input_ids, "attention_mask": attention_mask}
    if _compares_images(encoder):
        return encoder.get_text_features(**inputs).pooler_output
    text_encoder = encoder.get_encoder() if encoder.config.is_encoder_decoder else encoder
    hidden = text_encoder(**inputs).last_hidden_state  # [N, T, h]
    mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
    mask = mask.unsqueeze(-1).to(hidden.dtype)
    return (hidden * mask).sum(1) / mask.sum(1)


@contextmanager
def _named(encoder_id: str) -> Iterator[None]:
    """One line that names the encoder, for all that loading it may raise."""
    try:
        yield
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{encoder_id!r} cannot be loaded as a text encoder: {reason}") from error
