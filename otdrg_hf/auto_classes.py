"""Makes OTDRG known to the Auto classes and pipelines of transformers, as soon as transformers is imported."""

import importlib.abc
import importlib.util
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

TRANSFORMERS = "transformers"


def register(default_model: str) -> None:
    """Registers configuration, model, processor and pipeline, with the folder of the pipeline's default model."""
    from transformers import AutoConfig, AutoModel, AutoModelForImageTextToText, AutoModelForMultimodalLM, AutoProcessor
    from transformers.pipelines import PIPELINE_REGISTRY

    from otdrg_hf.modeling.configuration_otdrg import OTDRGConfig
    from otdrg_hf.modeling.modeling_otdrg import OTDRGForConditionalGeneration
    from otdrg_hf.modeling.pipeline_otdrg import TASK, RadiologyReportPipeline
    from otdrg_hf.modeling.processing_otdrg import OTDRGProcessor

    RadiologyReportPipeline.read_sentences = staticmethod(_read_sentences)
    RadiologyReportPipeline.read_states = staticmethod(_stated_states)
    AutoConfig.register("otdrg", OTDRGConfig)
    # AutoModel gives the whole model: a user who writes AutoModel.from_pretrained(...).generate(...) means this one.
    AutoModel.register(OTDRGConfig, OTDRGForConditionalGeneration)
    AutoModelForImageTextToText.register(OTDRGConfig, OTDRGForConditionalGeneration)
    AutoModelForMultimodalLM.register(OTDRGConfig, OTDRGForConditionalGeneration)  # pipeline("any-to-any")
    AutoProcessor.register(OTDRGConfig, OTDRGProcessor)
    PIPELINE_REGISTRY.register_pipeline(
        TASK,
        pipeline_class=RadiologyReportPipeline,
        pt_model=AutoModelForImageTextToText,
        default={"model": (default_model, "main")},
        type="multimodal",
    )


def _read_sentences(*args, **kwargs) -> list[dict]:
    """[`otdrg_hf.reporting.read_sentences`], imported with the first report that is read."""
    from otdrg_hf.reporting.sentences import read_sentences

    return read_sentences(*args, **kwargs)


def _stated_states(*args) -> "np.ndarray":
    """[`otdrg_hf.reporting.review.stated_states`], imported with the first report that is read."""
    from otdrg_hf.reporting.review import stated_states

    return stated_states(*args)


def register_with_transformers(default_model: str) -> None:
    """
    Registers now if transformers is imported already, else right after it is: what never imports it, such as the
    labeler, the metrics and `otdrg --help`, does not pay the seconds that transformers and torch take.
    """
    if TRANSFORMERS in sys.modules:
        register(default_model)
    else:
        sys.meta_path.insert(0, _AfterTransformers(default_model))


class _AfterTransformers(importlib.abc.MetaPathFinder):
    """Lets the next finder find transformers, and calls `register` once it is executed."""

    def __init__(self, default_model: str):
        self.default_model = default_model

    def find_spec(self, fullname, path=None, target=None):
        if fullname != TRANSFORMERS:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        if spec is not None:
            execute = spec.loader.exec_module

            def execute_and_register(module):
                execute(module)
                register(self.default_model)

            spec.loader.exec_module = execute_and_register
        return spec
