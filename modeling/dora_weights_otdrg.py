"""Magnitudes of a DoRA adapter, which transformers leaves at those of the base when it loads an adapter's folder."""

import torch
from safetensors import safe_open
from transformers import PreTrainedModel
from transformers.utils import cached_file

WEIGHTS, SAVED, PREFIX = "adapter_model.safetensors", ".lora_magnitude_vector", "base_model.model."


@torch.no_grad()
def load_magnitudes(model: PreTrainedModel, adapter_id: str, adapter_name: str, **download) -> None:
    """
    Reads what peft saved as `NAME.lora_magnitude_vector` into `NAME.lora_magnitude_vector.ADAPTER.weight`.

    Does nothing for adapters without magnitudes (LoRA) or without a safetensors file.
    """
    path = cached_file(adapter_id, WEIGHTS, _raise_exceptions_for_missing_entries=False, **download)
    if path is None:
        return
    with safe_open(path, framework="pt") as file:
        for key in file.keys():
            if key.endswith(SAVED):
                name = f"{key.removeprefix(PREFIX)}.{adapter_name}.weight"
                model.get_parameter(name).copy_(file.get_tensor(key))
