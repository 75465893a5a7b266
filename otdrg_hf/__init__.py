"""OTDRG, optimal-transport-driven radiology report generation, known to the transformers Auto classes and pipelines."""

from pathlib import Path

from transformers import AutoConfig, AutoModel, AutoModelForImageTextToText, AutoProcessor
from transformers.pipelines import PIPELINE_REGISTRY

import otdrg_hf.images  # noqa: F401  (Pillow learns to open DICOM)
from otdrg_hf.modeling.configuration_otdrg import OTDRGConfig
from otdrg_hf.modeling.modeling_otdrg import OTDRGForConditionalGeneration, OTDRGModel
from otdrg_hf.modeling.pipeline_otdrg import TASK, RadiologyReportPipeline
from otdrg_hf.modeling.processing_otdrg import OTDRGProcessor

__version__ = "0.1.0"

DEMO_CHECKPOINT = Path(__file__).parent / "demo" / "checkpoint"

AutoConfig.register("otdrg", OTDRGConfig)
# AutoModel gives the whole model: a user who writes AutoModel.from_pretrained(...).generate(...) means this one.
AutoModel.register(OTDRGConfig, OTDRGForConditionalGeneration)
AutoModelForImageTextToText.register(OTDRGConfig, OTDRGForConditionalGeneration)
AutoProcessor.register(OTDRGConfig, OTDRGProcessor)
PIPELINE_REGISTRY.register_pipeline(
    TASK,
    pipeline_class=RadiologyReportPipeline,
    pt_model=AutoModelForImageTextToText,
    default={"model": (str(DEMO_CHECKPOINT), "main")},
    type="multimodal",
)

__all__ = [
    "OTDRGConfig",
    "OTDRGForConditionalGeneration",
    "OTDRGModel",
    "OTDRGProcessor",
    "RadiologyReportPipeline",
]
