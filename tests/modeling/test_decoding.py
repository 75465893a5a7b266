"""Decoding as transformers offers it: an assistant, a static cache without waiting for it, and compiled steps."""

from unittest import mock

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import CompileConfig, StaticCache

from otdrg_hf import OTDRGForConditionalGeneration
from otdrg_hf.modeling.backbones_otdrg import add_placeholders
from tests.support.tiny_models import make_films, make_model, make_processor, make_text_config, make_tokenizer

LENGTH = {"max_new_tokens": 12, "eos_token_id": None, "do_sample": False}
STATIC = {"cache_implementation": "static"}


@pytest.fixture
def study():
    """One study of two views: transformers assists batches of one."""
    return make_processor(num_image_tokens=4)(images=[make_films(2)])


def wide_model() -> OTDRGForConditionalGeneration:
    """Of another width, with another encoder."""
    vocabulary = len(add_placeholders(make_tokenizer()))
    return make_model("resnet", text_config=make_text_config("qwen3", vocabulary, hidden_size=48, intermediate_size=64))


ASSISTANTS = {"itself": None, "other weights": lambda: make_model(seed=1), "another width": wide_model}


@pytest.mark.parametrize("labels", [None, torch.tensor([[1, 2] + [-100] * 12])], ids=["predicted", "overridden"])
@pytest.mark.parametrize("assistant", ASSISTANTS)
def test_assisted_decoding_writes_what_greedy_writes(assistant, labels, study):
    model = make_model()
    build = ASSISTANTS[assistant]
    given = {} if labels is None else {"disease_labels": labels}
    expected = model.generate(**study, **given, **LENGTH)
    tokens = model.generate(**study, **given, **LENGTH, assistant_model=model if build is None else build())
    assert torch.equal(tokens, expected)


def test_an_assistant_sees_the_images(study):
    """One of the same weights is always right, so that the model runs once for several tokens."""
    model, assistant = make_model(), make_model()
    assistant.generation_config.update(num_assistant_tokens=3, num_assistant_tokens_schedule="constant")
    assistant.generation_config.assistant_confidence_threshold = 0.0
    with mock.patch.object(model, "forward", wraps=model.forward) as forward:
        model.generate(**study, **LENGTH, assistant_model=assistant)
    assert forward.call_count == LENGTH["max_new_tokens"] / (3 + 1)


class ReadValues(TorchDispatchMode):
    """Counts the values that the host reads off tensors, for each of which it would wait for an accelerator."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += function in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.equal.default)
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("text", ["llama", "gpt2"])
def test_a_step_on_a_static_cache_reads_no_value(text, inputs):
    model = make_model(text=text)
    length = inputs["input_ids"].shape[1]
    cache = StaticCache(config=model.config.text_config, max_cache_len=length + 4)
    positions = inputs["attention_mask"].cumsum(-1).sub(1).clamp(min=0)
    with torch.no_grad():
        model(**inputs, position_ids=positions, past_key_values=cache)
        mask = torch.cat([inputs["attention_mask"], torch.ones(3, 1, dtype=torch.long)], dim=1)
        step = {"input_ids": torch.full((3, 1), 7), "position_ids": positions[:, -1:] + 1, "past_key_values": cache}
        step = model.prepare_inputs_for_generation(**step, attention_mask=mask, next_sequence_length=1)
        with ReadValues() as read:
            model(**step)
    assert read.count == 0


@pytest.fixture
def compiled():
    """Options that compile the steps of `generate`, as an accelerator would, into one graph; any break is an error."""
    torch.compiler.reset()
    config = CompileConfig(fullgraph=True, backend="aot_eager", mode=None)
    config._compile_all_devices = True
    yield {"cache_implementation": "static", "compile_config": config}
    torch.compiler.reset()


def test_the_model_says_that_it_can_be_compiled():
    assert OTDRGForConditionalGeneration._can_compile_fullgraph


@pytest.mark.parametrize("vision, text", [("vit", "llama"), ("resnet", "gemma2")])
def test_compiled_steps_are_one_graph_and_write_the_same(vision, text, inputs, compiled):
    model = make_model(vision, text)
    prompt = {"input_ids": inputs["input_ids"], "attention_mask": inputs["attention_mask"]}
    flipped = {**prompt, "pixel_values": inputs["pixel_values"].flip(-1), "view_mask": inputs["view_mask"]}
    for study in (inputs, flipped):
        expected = model.generate(**study, **LENGTH)
        # The second study, of the same shapes, takes the graph of the first.
        with torch.compiler.set_stance("default" if study is inputs else "fail_on_recompile"):
            assert torch.equal(model.generate(**study, **LENGTH, **compiled), expected)


def test_compiled_steps_give_all_outputs(inputs, compiled):
    model = make_model()
    model.set_attn_implementation("eager")  # gives attentions
    names = ("logits", "scores", "hidden_states", "attentions")
    wanted = {"return_dict_in_generate": True, **{f"output_{name}": True for name in names}}
    plain = model.generate(**inputs, **LENGTH, **wanted)
    outputs = model.generate(**inputs, **LENGTH, **wanted, **compiled)
    assert torch.equal(outputs.sequences, plain.sequences)
    for name in ("logits", "scores"):
        torch.testing.assert_close(outputs[name], plain[name], atol=1e-5, rtol=1e-5)
    assert len(outputs.hidden_states) == len(outputs.attentions) == LENGTH["max_new_tokens"]


@pytest.mark.parametrize("text", ["llama", "gpt2", "gemma2"])
def test_static_cache_writes_the_same_from_ids_and_embeddings(text, inputs):
    model = make_model(text=text)
    expected = model.generate(**inputs, **LENGTH)
    tokens = model.generate(**inputs, **LENGTH, **STATIC, return_dict_in_generate=True)
    assert torch.equal(tokens.sequences, expected)
    assert tokens.past_key_values.get_max_length() == expected.shape[1] - 1
    rest = {key: value for key, value in inputs.items() if key != "input_ids"}
    embeds = model.get_input_embeddings()(inputs["input_ids"])
    new = expected[:, inputs["input_ids"].shape[1] :]
    assert torch.equal(model.generate(**rest, inputs_embeds=embeds, **LENGTH, **STATIC), new)


def test_static_cache_in_half_precision(inputs):
    model = make_model().to(torch.bfloat16)
    tokens = model.generate(**inputs, **LENGTH, **STATIC)
    assert torch.equal(tokens, model.generate(**inputs, **LENGTH))
