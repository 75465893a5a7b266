"""A small folder of studies, and weights of a tiny CheXbert, for the tests of `otdrg evaluate`."""

import json

import pytest
from PIL import Image

from tests.metrics.conftest import no_java, offline_metrics  # noqa: F401
from tests.support.tiny_models import make_films

REPORTS = [
    ("The heart is normal in size.", "Normal chest."),
    ("There is a left pleural effusion.", "Left pleural effusion."),
    ("", "No acute disease."),
    ("No pneumothorax.", ""),
    ("Cardiomegaly.", "Cardiomegaly."),
    ("The lungs are clear.", "Normal chest."),
]


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    """A folder of six studies in the test split, of one or two films."""
    folder = tmp_path_factory.mktemp("films")
    lines = []
    for index, (findings, impression) in enumerate(REPORTS):
        names = [f"{index}-{view}.png" for view in range(1 + index % 2)]
        for view, name in enumerate(names):
            Image.fromarray(make_films(12)[2 * index + view]).save(folder / name)
        row = {"id": f"s{index}", "file_names": names, "findings": findings, "impression": impression}
        lines.append(json.dumps({**row, "split": "test"}) + "\n")
    (folder / "metadata.jsonl").write_text("".join(lines))
    return folder


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))
        yield


@pytest.fixture(scope="session")
def chexbert(tmp_path_factory):
    """Weights of a tiny CheXbert and a tokenizer for it."""
    import torch
    from safetensors.torch import save_file
    from transformers import BertConfig

    from otdrg_hf.labeling.chexbert import CheXbert

    folder = tmp_path_factory.mktemp("chexbert")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".", "effusion", "heart"]
    (folder / "vocab.txt").write_text("\n".join(words) + "\n")
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer", "do_lower_case": true}')
    (folder / "config.json").write_text('{"model_type": "bert"}')
    torch.manual_seed(0)
    size = {"hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 32}
    model = CheXbert(BertConfig(vocab_size=len(words), max_position_embeddings=32, **size))
    save_file(model.state_dict(), folder / "chexbert.safetensors")
    torch.save({"model_state_dict": model.state_dict()}, folder / "chexbert.pth")
    return folder


@pytest.fixture
def published_tokenizer(chexbert, monkeypatch):
    """The tokenizer of the tiny CheXbert in the place of the one on the Hub."""
    from transformers import AutoTokenizer

    load = AutoTokenizer.from_pretrained

    def from_pretrained(name, *args, **kwargs):
        return load(chexbert if name == "bert-base-uncased" else name, *args, **kwargs)

    monkeypatch.setattr(AutoTokenizer, "from_pretrained", from_pretrained)
