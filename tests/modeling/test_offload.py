"""Weights on the disk, on the CPU or spread by `device_map` give what they give in memory."""

import pytest
import torch
from accelerate import cpu_offload

from otdrg_hf import OTDRGForConditionalGeneration
from tests.support.tiny_models import make_model, make_processor

WORDS = [[[], [20 + label, 10], [], [11, 20 + label, 10]] for label in range(14)]
FIELDS = {
    "embeddings": {},
    "words": {"label_words": 8, "label_word_ids": WORDS},
    "text encoder": {"label_feature_size": 12},
}


def outputs_of(model, inputs):
    labels = torch.arange(2 * 14).view(2, 14) % 4
    with torch.no_grad():
        outputs = model(**inputs, labels=inputs["input_ids"], disease_labels=labels)
    ids = model.generate(**inputs, max_new_tokens=6, do_sample=False)
    return ids, *(outputs[name] for name in ("loss", "logits", "disease_logits", "transport_plan"))


@pytest.fixture(params=FIELDS)
def saved(request, films, tmp_path):
    model = make_model(**FIELDS[request.param])
    if model.config.label_feature_size:
        torch.nn.init.normal_(model.model.label_encoder.phrase_features)
    model.save_pretrained(tmp_path)
    processor = make_processor(num_image_tokens=4, num_finding_tokens=model.config.finding_seq_length)
    inputs = processor(images=[films[:2], films[2:3]])
    return tmp_path, inputs, outputs_of(model, inputs)


@pytest.mark.parametrize("device_map", ["auto", {"": "disk"}, "little memory"])
def test_device_map_gives_the_same(saved, device_map, tmp_path):
    folder, inputs, expected = saved
    options = {"device_map": device_map, "offload_folder": tmp_path / "offloaded"}
    if device_map == "little memory":
        options |= {"device_map": "auto", "max_memory": {"cpu": 60_000}}
    model = OTDRGForConditionalGeneration.from_pretrained(folder, **options)
    offloaded = {name.split(".")[1] for name, value in model.named_parameters() if value.is_meta}
    assert bool(offloaded) == (device_map != "auto")
    if device_map == {"": "disk"}:
        assert {"label_encoder", "fusion", "alignment", "language_model", "vision_tower"} <= offloaded
    torch.testing.assert_close(outputs_of(model, inputs), expected)


def test_cpu_offload_gives_the_same(saved):
    folder, inputs, expected = saved
    model = OTDRGForConditionalGeneration.from_pretrained(folder)
    cpu_offload(model, execution_device=torch.device("cpu"))
    assert all(value.is_meta for value in model.parameters())
    torch.testing.assert_close(outputs_of(model, inputs), expected)


def test_layers_of_the_method_are_not_split(saved, tmp_path):
    """A module of `device_map` is on one device, so that a weight is where the layer that reads it is."""
    folder, _, _ = saved
    model = OTDRGForConditionalGeneration.from_pretrained(
        folder, device_map="auto", max_memory={"cpu": 60_000}, offload_folder=tmp_path / "offloaded"
    )
    of_method = ("patch_projection", "label_encoder", "alignment", "disease_head", "fusion")
    split = [name for name in model.hf_device_map if any(f"{part}." in name for part in of_method)]
    assert not split
