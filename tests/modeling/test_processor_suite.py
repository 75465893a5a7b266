"""transformers' own tests of processors, run on OTDRG's."""

import unittest

import pytest
import torch

from otdrg_hf import OTDRGProcessor
from tests.support.tiny_models import make_processor
from tests.support.transformers_tests import transformers_tests

pytestmark = pytest.mark.slow
suite = transformers_tests("test_processing_common")


class OTDRGProcessorTest(suite.ProcessorTesterMixin, unittest.TestCase):
    """The one override is of an axis: OTDRG's `pixel_values` are `[B, V, 3, H, W]`, of the views of studies."""

    processor_class = OTDRGProcessor

    @staticmethod
    def prepare_processor_dict():
        return {"num_image_tokens": 4}

    @classmethod
    def _setup_from_components(cls):
        return make_processor(**cls.prepare_processor_dict())

    def test_subprocessor_defaults_1_images(self):
        image = self.prepare_images_inputs()
        processor = self.get_processor()
        expected = processor.image_processor(image, return_tensors="pt")["pixel_values"]
        torch.testing.assert_close(processor(images=image)["pixel_values"], expected.unsqueeze(1))
