"""CheXbert (Smit et al., EMNLP 2020): a BERT with one linear head per label, as a labeler beside the rules."""

from __future__ import annotations

import os
import pickle
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn
from tqdm.auto import tqdm
from transformers import AutoTokenizer, BertConfig, BertModel, BertTokenizer

from otdrg_hf.files import atomic_path
from otdrg_hf.labeling.labels import LABELS

# Thirteen heads of four classes, in the order of LABELS and of STATES; No Finding is only blank or positive.
HEAD_SIZES: tuple[int, ...] = (4,) * 13 + (2,)
_LAYER = re.compile(r"bert\.encoder\.layer\.(\d+)\.")
_HEAD_WIDTH = 64  # of all published BERT sizes; a checkpoint does not tell its number of attention heads
# A buffer of older transformers, and a layer that the heads do not look at.
_UNUSED = ("bert.embeddings.position_ids", "bert.pooler.")
_PROGRESS_FROM = 1000


class CheXbert(nn.Module):
    """BERT and the 14 heads, under the names of the published checkpoint.

    Args:
        config (`BertConfig`): of the encoder; bert-base-uncased's for the published weights.
    """

    def __init__(self, config: BertConfig):
        super().__init__()
        self.bert = BertModel(config, add_pooling_layer=False)
        self.linear_heads = nn.ModuleList(nn.Linear(config.hidden_size, size) for size in HEAD_SIZES)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> list[torch.Tensor]:
        """Logits of each head, [B, 4] x 13 and [B, 2], from `input_ids` and `attention_mask` [B, L]."""
        first = self.bert(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state[:, 0]  # [B, d]
        return [head(first) for head in self.linear_heads]


def read_weights(path: str | os.PathLike) -> dict[str, torch.Tensor]:
    """Tensors of a CheXbert checkpoint, without the prefix that data-parallel training leaves on their names.

    Args:
        path (`str` or `os.PathLike`): the published chexbert.pth or a .safetensors conversion of it. Pickled objects
            other than tensors are refused, not run.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it cannot be read as weights.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no CheXbert weights at {path.name}: give the path of chexbert.pth or .safetensors")
    try:
        if path.suffix == ".safetensors":
            tensors = load_file(path)
        else:
            content = torch.load(path, map_location="cpu", weights_only=True)
            tensors = content.get("model_state_dict", content) if isinstance(content, Mapping) else None
    except (pickle.UnpicklingError, SafetensorError, RuntimeError, EOFError, OSError) as error:
        reason = str(error).partition("\n")[0] or "it ends too early"
        raise ValueError(f"{path.name}: not readable as weights: {reason}") from error
    if not isinstance(tensors, Mapping) or not all(isinstance(t, torch.Tensor) for t in tensors.values()):
        raise ValueError(f"{path.name}: holds no state dict; a CheXbert checkpoint has one under 'model_state_dict'")
    names = {name.removeprefix("module."): tensor for name, tensor in tensors.items()}
    return {name: tensor for name, tensor in names.items() if not name.startswith(_UNUSED)}


def build_model(weights: Mapping[str, torch.Tensor]) -> CheXbert:
    """A [`CheXbert`] of the size of `weights`, with them loaded, in evaluation mode.

    Raises:
        ValueError: if they are not of CheXbert's layout; the message names the first tensor that is missing, too many
            or of another shape.
    """
    words = weights.get("bert.embeddings.word_embeddings.weight")
    inner = weights.get("bert.encoder.layer.0.intermediate.dense.weight")
    if words is None or inner is None:
        raise ValueError("these are not CheXbert weights: there is no bert.embeddings.word_embeddings.weight in them")
    layers = 1 + max(int(match[1]) for match in map(_LAYER.match, weights) if match)
    width = words.shape[1]
    config = BertConfig(
        vocab_size=words.shape[0],
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=max(1, width // _HEAD_WIDTH),
        intermediate_size=inner.shape[0],
        max_position_embeddings=weights["bert.embeddings.position_embeddings.weight"].shape[0],
    )
    with torch.device("meta"):
        model = CheXbert(config)
    expected = model.state_dict()
    for name in sorted(expected.keys() | weights.keys()):
        if name not in weights or name not in expected:
            fault = "missing" if name in expected else "unknown"
            raise ValueError(f"these are not CheXbert weights: {name} is {fault}")
        if weights[name].shape != expected[name].shape:
            shapes = f"{tuple(weights[name].shape)}, not {tuple(expected[name].shape)}"
            raise ValueError(f"these are not CheXbert weights: {name} has the shape {shapes}")
    model = CheXbert(config)
    model.load_state_dict({name: tensor.float() for name, tensor in weights.items()})
    return model.eval()


def convert_weights(source: str | os.PathLike, target: str | os.PathLike) -> None:
    """Write the checkpoint `source` as safetensors to `target`."""
    weights = read_weights(source)
    build_model(weights)
    with atomic_path(target) as temporary:
        save_file({name: tensor.contiguous().clone() for name, tensor in weights.items()}, temporary)


def _load_tokenizer(weights: str | os.PathLike, tokenizer: str | os.PathLike | None):
    folder = Path(weights).absolute().parent
    if tokenizer is None:
        beside = any((folder / name).is_file() for name in ("vocab.txt", "tokenizer.json"))
        tokenizer = folder if beside else "bert-base-uncased"
    try:
        # The folder of the weights need not say what kind of tokenizer it holds.
        load = BertTokenizer if tokenizer == folder else AutoTokenizer
        return load.from_pretrained(os.fspath(tokenizer))
    except OSError as error:
        raise ValueError(
            f"the tokenizer {Path(tokenizer).name} cannot be loaded: put the vocab.txt of bert-base-uncased beside "
            "the weights"
        ) from error


class CheXbertLabeler:
    """Labels reports with CheXbert; a drop-in for [`label_reports`] where its weights are at hand.

    Args:
        weights (`str` or `os.PathLike`): chexbert.pth or its safetensors conversion.
        tokenizer (`str` or `os.PathLike`, *optional*): folder or Hub id of the uncased BERT tokenizer it was trained
            with. By default that of the weights' folder, where a vocab.txt or tokenizer.json lies beside them, else
            bert-base-uncased of the Hub.
        device (`str` or `torch.device`, *optional*): the first GPU where there is one, by default.
        batch_size (`int`): reports per forward pass.

    Raises:
        FileNotFoundError, ValueError: see [`read_weights`] and [`build_model`]; ValueError also for a tokenizer that
            cannot be loaded, or has more words than the weights have.
    """

    def __init__(
        self,
        weights: str | os.PathLike,
        tokenizer: str | os.PathLike | None = None,
        device: str | torch.device | None = None,
        batch_size: int = 32,
    ):
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}; it must be 1 or more")
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.batch_size = batch_size
        model = build_model(read_weights(weights))
        self.tokenizer = _load_tokenizer(weights, tokenizer)
        self.max_length = model.bert.config.max_position_embeddings
        if len(self.tokenizer) > model.bert.config.vocab_size:
            raise ValueError(
                f"the tokenizer has {len(self.tokenizer)} words, the weights {model.bert.config.vocab_size}: "
                "CheXbert goes with bert-base-uncased"
            )
        self.model = model.to(self.device)

    @torch.inference_mode()
    def __call__(self, reports: Sequence[str]) -> np.ndarray:
        """Label reports.

        Args:
            reports (`Sequence[str]`): as long as 510 word pieces (of the published model); the rest is cut off.

        Returns:
            `np.ndarray`: int8 `[N, 14]`, as [`label_reports`] gives them. An empty report is blank throughout.
        """
        if isinstance(reports, str):
            raise TypeError("CheXbertLabeler takes a list of reports; wrap the one report in a list")
        texts = [" ".join(report.split()) for report in reports]
        states = np.zeros((len(texts), len(LABELS)), dtype=np.int8)
        # Reports of one length together: little padding.
        order = sorted((k for k, text in enumerate(texts) if text), key=lambda k: len(texts[k]))
        starts = range(0, len(order), self.batch_size)
        for start in tqdm(starts, desc="CheXbert", unit="batch", disable=len(order) < _PROGRESS_FROM):
            batch = order[start : start + self.batch_size]
            encoded = self.tokenizer(
                [texts[k] for k in batch],
                padding=True,
                truncation=True,
                max_length=self.max_length,
                return_tensors="pt",
            ).to(self.device)
            logits = self.model(encoded["input_ids"], encoded["attention_mask"])
            states[batch] = torch.stack([head.argmax(dim=-1) for head in logits], dim=1).cpu().numpy()  # [B, 14]
        return states
