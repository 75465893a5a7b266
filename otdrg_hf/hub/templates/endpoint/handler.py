"""What Hugging Face Inference Endpoints run: reports of chest X-rays. Research software, not for clinical use."""

from otdrg_hf.serving.endpoint import EndpointHandler

__all__ = ["EndpointHandler"]
