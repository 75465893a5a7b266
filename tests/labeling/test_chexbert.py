"""CheXbert from a tiny checkpoint of the published layout: names, classes, batches and refused files."""

import os
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from transformers import BertConfig, BertModel

from otdrg_hf.labeling import LABELS
from otdrg_hf.labeling.chexbert import HEAD_SIZES, CheXbertLabeler, build_model, convert_weights, read_weights

WORDS = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    ".",
    "no",
    "small",
    "effusion",
    "edema",
    "nodule",
    "##s",
    "left",
]
REPORTS = ["No effusion.", "Small left effusions.", "", "edema nodule " * 40, "Small  LEFT\n effusions.", "Nodule."]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer", "do_lower_case": true}')
    (folder / "config.json").write_text('{"model_type": "bert"}')
    return folder


@pytest.fixture(scope="module")
def encoder():
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(WORDS), hidden_size=64, num_hidden_layers=2, num_attention_heads=1, intermediate_size=48
    )
    config.max_position_embeddings = 32
    return BertModel(config).eval()


@pytest.fixture(scope="module")
def heads():
    torch.manual_seed(1)
    return [torch.nn.Linear(64, size) for size in HEAD_SIZES]


@pytest.fixture(scope="module")
def state_dict(encoder, heads):
    state = {f"module.bert.{name}": tensor for name, tensor in encoder.state_dict().items()}
    for number, head in enumerate(heads):
        state |= {f"module.linear_heads.{number}.{name}": tensor for name, tensor in head.state_dict().items()}
    return {name: tensor.detach() for name, tensor in state.items()}


@pytest.fixture(scope="module")
def checkpoint(state_dict, tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "chexbert.pth"
    old = {"module.bert.embeddings.position_ids": torch.arange(32)[None]}
    torch.save({"epoch": 3, "loss": 0.1, "model_state_dict": state_dict | old}, path)
    return path


@torch.no_grad()
def expected_row(encoder, heads, ids):
    first = encoder(input_ids=torch.tensor([ids])).last_hidden_state[0, 0]
    return [int(head(first).argmax()) for head in heads]


def test_labels_are_the_heads_largest_classes(tokenizer, checkpoint, encoder, heads):
    labeler = CheXbertLabeler(checkpoint, tokenizer, device="cpu")
    states = labeler(REPORTS)
    index = {word: k for k, word in enumerate(WORDS)}
    ids = [index[w] for w in ("[CLS]", "small", "left", "effusion", "##s", ".", "[SEP]")]
    assert states.dtype == np.int8 and states.shape == (len(REPORTS), len(LABELS))
    assert states[1].tolist() == expected_row(encoder, heads, ids)
    assert states[4].tolist() == states[1].tolist()
    assert not states[2].any()
    assert states[:, -1].max() <= 1


def test_long_reports_are_cut_at_the_models_length(tokenizer, checkpoint, encoder, heads):
    index = {word: k for k, word in enumerate(WORDS)}
    ids = [index["[CLS]"], *([index["edema"], index["nodule"]] * 15), index["[SEP]"]]
    row = CheXbertLabeler(checkpoint, tokenizer, device="cpu")([REPORTS[3]])[0]
    assert len(ids) == 32 and row.tolist() == expected_row(encoder, heads, ids)


@pytest.mark.parametrize("batch_size", [1, 2, 64])
def test_batches_do_not_change_labels(tokenizer, checkpoint, batch_size):
    one_by_one = np.concatenate([CheXbertLabeler(checkpoint, tokenizer, "cpu")([report]) for report in REPORTS])
    assert (CheXbertLabeler(checkpoint, tokenizer, "cpu", batch_size)(REPORTS) == one_by_one).all()


def test_no_reports(tokenizer, checkpoint):
    assert CheXbertLabeler(checkpoint, tokenizer, "cpu")([]).shape == (0, 14)


def test_safetensors_conversion_is_the_same_model(tokenizer, checkpoint, tmp_path):
    converted = tmp_path / "chexbert.safetensors"
    convert_weights(checkpoint, converted)
    assert os.listdir(tmp_path) == ["chexbert.safetensors"]
    first, second = read_weights(checkpoint), read_weights(converted)
    assert first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)
    states = CheXbertLabeler(converted, tokenizer, "cpu")(REPORTS)
    assert (states == CheXbertLabeler(checkpoint, tokenizer, "cpu")(REPORTS)).all()


class Bomb:
    def __reduce__(self):
        return os.mkdir, ("bomb",)


def test_pickled_code_is_not_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"model_state_dict": Bomb()}, "bad.pth", pickle_module=pickle)
    with pytest.raises(ValueError, match="bad.pth: not readable as weights"):
        read_weights("bad.pth")
    assert not os.path.exists("bomb")


@pytest.mark.parametrize(
    "name, content", [("bad.pth", b"not a checkpoint"), ("bad.safetensors", b"no"), ("e.pth", b"")]
)
def test_files_that_are_no_weights(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=f"{name}: not readable as"):
        read_weights(tmp_path / name)


def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="no CheXbert weights at none.pth"):
        read_weights(tmp_path / "none.pth")


def test_other_layouts_are_named(checkpoint, tmp_path):
    weights = read_weights(checkpoint)
    with pytest.raises(ValueError, match="linear_heads.13.weight is missing"):
        build_model({name: tensor for name, tensor in weights.items() if name != "linear_heads.13.weight"})
    with pytest.raises(ValueError, match="extra is unknown"):
        build_model(weights | {"extra": torch.zeros(1)})
    with pytest.raises(ValueError, match=r"linear_heads.13.bias has the shape \(4,\), not \(2,\)"):
        build_model(weights | {"linear_heads.13.bias": torch.zeros(4)})
    save_file({"a": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="not CheXbert weights"):
        build_model(read_weights(tmp_path / "other.safetensors"))


def test_a_tokenizer_with_more_words_than_the_weights(tokenizer, checkpoint, tmp_path):
    for file in tokenizer.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    with open(tmp_path / "vocab.txt", "a") as vocab:
        vocab.write("pneumothorax\n")
    with pytest.raises(ValueError, match="14 words, the weights 13"):
        CheXbertLabeler(checkpoint, tmp_path, "cpu")


def test_tokenizer_beside_the_weights_is_taken(checkpoint, tokenizer, tmp_path):
    weights = Path(shutil.copy(checkpoint, tmp_path))
    shutil.copy(tokenizer / "vocab.txt", tmp_path)
    expected = CheXbertLabeler(checkpoint, tokenizer, device="cpu")(REPORTS)
    np.testing.assert_array_equal(CheXbertLabeler(weights, device="cpu")(REPORTS), expected)


def test_tokenizer_that_is_nowhere_is_named(checkpoint, tmp_path):
    with pytest.raises(ValueError, match="tokenizer nowhere cannot be loaded: put the vocab.txt"):
        CheXbertLabeler(checkpoint, tmp_path / "nowhere", device="cpu")
