"""Loads the model that writes the reports, and names it."""

import hashlib
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn
    from transformers import Pipeline

DTYPES = ("auto", "float32", "bfloat16", "float16")
_SAMPLED = 64
_CAUSE = re.compile(r"(\w+\.)*\w+Error: ")


def load_reporter(
    model: str | os.PathLike | None = None, device: str | None = None, dtype: str | None = None
) -> "Pipeline":
    """
    The pipeline of a model.

    Args:
        model (`str` or `os.PathLike`, *optional*): Folder or Hub id; defaults to the bundled demo checkpoint.
        device (`str`, *optional*): `"cpu"`, `"cuda"`, `"cuda:1"`, `"mps"`; defaults to the best there is.
        dtype (`str`, *optional*): One of `DTYPES`; defaults to `"auto"`, that of the checkpoint.

    Raises:
        ValueError: for a device or dtype that this machine or torch does not have, and a model that cannot be loaded.
    """
    import torch
    from transformers import pipeline

    from otdrg_hf import DEMO_CHECKPOINT, RadiologyReportPipeline  # noqa: F401  (registers the pipeline)
    from otdrg_hf.modeling.pipeline_otdrg import TASK

    if dtype not in (None, *DTYPES):
        raise ValueError(f"{dtype!r} is not a dtype; choose from {', '.join(DTYPES)}.")
    if device is not None:
        try:
            torch.empty(1, device=device)
        except torch.OutOfMemoryError:
            raise ValueError(
                f"The device {device!r} has no memory left: wait for what runs there, or choose another."
            ) from None
        except (RuntimeError, AssertionError, NotImplementedError):
            raise ValueError(f"There is no device {device!r} here; leave it out for the best there is.") from None
    location, name = str(model or DEMO_CHECKPOINT), model_name(model)
    # Hub ids are NAME or ORGANISATION/NAME: for anything else the Hub need not be asked.
    is_path = os.path.isabs(location) or location.startswith((".", "~")) or location.count("/") > 1
    if is_path and not os.path.isdir(location):
        raise ValueError(f"The model {name!r} cannot be loaded: there is no such folder.")
    try:
        return pipeline(TASK, model=location, device=device, dtype=dtype or "auto")
    except (OSError, ValueError, RuntimeError) as error:
        reason = _reason(error).replace(location, repr(name))
        raise ValueError(f"The model {name!r} cannot be loaded: {reason}") from error


def model_name(model: str | os.PathLike | None) -> str:
    """The name of a model in answers: "demo" for the bundled one, else its [`plain_name`]."""
    return "demo" if model is None else plain_name(model)


def plain_name(source: str | os.PathLike) -> str:
    """A folder without its path, which says nothing elsewhere; a name or Hub id as it is."""
    return Path(source).resolve().name if os.path.isdir(source) else str(source)


def weights_digest(model: "nn.Module") -> str:
    """A fingerprint of a model's weights, from up to 64 values of each: training changes it, a copy does not."""
    import torch

    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        values = tensor.detach().reshape(-1)
        sample = values[:: max(1, len(values) // _SAMPLED)][:_SAMPLED].contiguous().cpu()
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(sample.view(torch.uint8).numpy().tobytes())
    return f"sha256 of samples {digest.hexdigest()[:16]}"


def _reason(error: Exception) -> str:
    """The line of an error that says what is wrong: pipelines put whole tracebacks into theirs."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    causes = [line for line in lines if _CAUSE.match(line)]
    return (causes or lines or [type(error).__name__])[-1 if causes else 0][:300]
