"""transformers' own tests of models, run on OTDRG; no test is skipped that transformers does not skip for Llava."""

import unittest
from unittest import mock

import pytest
import torch
from transformers.models.auto import modeling_auto

from otdrg_hf import OTDRGForConditionalGeneration, OTDRGModel
from otdrg_hf.modeling.disease_states_otdrg import POSITIVE
from tests.support.tiny_models import IMAGE_SIZE, make_config
from tests.support.transformers_tests import transformers_tests

suite = transformers_tests("test_modeling_common")
pytestmark = pytest.mark.slow

BATCH_SIZE = 7  # what the tests of attention fill a smaller batch up to, with tokens that are not of a study
LAYERS = 2
SPARE_ROWS = 64  # of the vocabulary, which the tests of resizing take away
# By these names the tests know what a model is for; OTDRG's are not in the library's tables.
NAMES = {
    "MODEL_MAPPING_NAMES": "OTDRGModel",
    "MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES": "OTDRGForConditionalGeneration",
}
# A bool tensor (`view_mask` of the features in the outputs of OTDRGModel) is subtracted from another for a message that
# is made whether or not it is needed.
BOOL_SUBTRACTED = "the test subtracts bool tensors"


@pytest.fixture(autouse=True)
def names():
    tables = [mock.patch.dict(getattr(modeling_auto, table), {"otdrg": name}) for table, name in NAMES.items()]
    with tables[0], tables[1]:
        yield


class OTDRGTester:
    """Configurations and inputs in the way that the tests of transformers ask for them."""

    is_training = True
    batch_size = BATCH_SIZE

    def __init__(self, vision: str, text: str):
        self.vision, self.text = vision, text
        config = self.get_config()
        self.num_placeholders = config.image_seq_length, config.finding_seq_length
        self.seq_length = 6 + sum(self.num_placeholders)
        self.num_hidden_layers = LAYERS
        self.hidden_size = config.text_config.hidden_size
        self.num_attention_heads = config.text_config.num_attention_heads
        self.text_config = {"num_hidden_layers": LAYERS}
        # Stages of a convolutional encoder count as layers.
        self.vision_config = {"num_hidden_layers": getattr(config.vision_config, "num_hidden_layers", LAYERS)}

    def get_config(self):
        config = make_config(self.vision, self.text)
        config.text_config.vocab_size += SPARE_ROWS
        return config

    def prepare_config_and_inputs_for_common(self):
        config = self.get_config()
        images, findings = self.num_placeholders
        ids = torch.randint(5, config.image_token_id, (BATCH_SIZE, self.seq_length))
        ids[:, 1 : 1 + images] = config.image_token_id
        ids[:, 1 + images : 1 + images + findings] = config.finding_token_id
        pixels = torch.rand(BATCH_SIZE, 3, IMAGE_SIZE, IMAGE_SIZE)
        return config, {"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values": pixels}


class OTDRGModelTest(suite.ModelTesterMixin, suite.GenerationTesterMixin):
    vision: str
    text: str
    unused: tuple[str, ...] = ()  # parameters of the encoder that have no part in its last hidden state
    all_model_classes = (OTDRGModel, OTDRGForConditionalGeneration)
    additional_model_inputs = ("pixel_values",)
    _is_composite = True

    def setUp(self):
        self.model_tester = OTDRGTester(self.vision, self.text)
        # Tests that make up prompts of their own give no images: the placeholder of images is refused without.
        make_ids, first = suite.ids_tensor, self.model_tester.get_config().image_token_id

        def make_words(shape, vocab_size, **options):
            return make_ids(shape, min(vocab_size, first), **options)

        patched = mock.patch.object(suite, "ids_tensor", make_words)
        patched.start()
        self.addCleanup(patched.stop)

    def _prepare_for_class(self, inputs_dict, model_class, return_labels=False):
        inputs = super()._prepare_for_class(inputs_dict, model_class, return_labels)
        if return_labels:  # without them the disease head has no loss
            studies, labels = torch.arange(BATCH_SIZE)[:, None], torch.arange(14)
            inputs["disease_labels"] = (studies + labels) % (1 + POSITIVE)
        return inputs

    def check_training_gradient_checkpointing(self, *args, **kwargs):
        """As in transformers, and that the parameters of `unused` have no gradient."""
        plain = self.subTest

        def sub_test(message):
            if any(name in str(message) for name in self.unused):
                return self.assertRaisesRegex(AssertionError, "has no gradient")
            return plain(message)

        with mock.patch.object(self, "subTest", sub_test):
            super().check_training_gradient_checkpointing(*args, **kwargs)

    @pytest.mark.xfail(reason=BOOL_SUBTRACTED, raises=RuntimeError, strict=True)
    def test_model_outputs_equivalence(self):
        super().test_model_outputs_equivalence()

    def test_outputs_of_the_head_are_equivalent(self):
        with mock.patch.object(type(self), "all_model_classes", (OTDRGForConditionalGeneration,)):
            super().test_model_outputs_equivalence()


class ViTLlamaTest(OTDRGModelTest, unittest.TestCase):
    vision, text, unused = "vit", "llama", ("vision_tower.pooler.",)


class CLIPLlamaTest(OTDRGModelTest, unittest.TestCase):
    vision, text, unused = "clip", "llama", ("vision_tower.post_layernorm.",)


class ResNetQwen3Test(OTDRGModelTest, unittest.TestCase):
    vision, text = "resnet", "qwen3"
    # Its configuration names a width for each stage, and none that the test knows.
    skip_test_image_features_output_shape = True

    def test_get_image_features_attentions(self):
        """A convolutional encoder has no attentions to give; those of the language model are tested as of others."""
        with mock.patch.object(type(self), "has_attentions", False):
            super().test_get_image_features_attentions()


del OTDRGModelTest  # a test of no family
