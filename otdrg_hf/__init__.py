"""OTDRG, optimal-transport-driven radiology report generation, known to the transformers Auto classes and pipelines."""

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

import otdrg_hf.images  # noqa: F401  (Pillow learns to open DICOM)
from otdrg_hf.auto_classes import register_with_transformers

if TYPE_CHECKING:
    from otdrg_hf.modeling.configuration_otdrg import OTDRGConfig
    from otdrg_hf.modeling.modeling_otdrg import OTDRGForConditionalGeneration, OTDRGModel
    from otdrg_hf.modeling.pipeline_otdrg import RadiologyReportPipeline
    from otdrg_hf.modeling.processing_otdrg import OTDRGProcessor

__version__ = "0.1.0"

DEMO_CHECKPOINT = Path(__file__).parent / "demo" / "checkpoint"

_HOMES = {
    "OTDRGConfig": "configuration_otdrg",
    "OTDRGForConditionalGeneration": "modeling_otdrg",
    "OTDRGModel": "modeling_otdrg",
    "OTDRGProcessor": "processing_otdrg",
    "RadiologyReportPipeline": "pipeline_otdrg",
}
__all__ = [
    "OTDRGConfig",
    "OTDRGForConditionalGeneration",
    "OTDRGModel",
    "OTDRGProcessor",
    "RadiologyReportPipeline",
]

register_with_transformers(str(DEMO_CHECKPOINT))


def __getattr__(name: str):
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"otdrg_hf.modeling.{_HOMES[name]}"), name)
