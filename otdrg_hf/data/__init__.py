"""Studies of IU X-Ray, MIMIC-CXR, phantoms and your own folders in one schema; everything is imported on first use."""

from importlib import import_module
from typing import TYPE_CHECKING

_MODULE_OF = {
    "DataError": "errors",
    "STUDY_COLUMNS": "schema",
    "study_features": "schema",
    "load_study_dataset": "loading",
    "prepare_dataset": "preparing.command",
    "plot_label_prevalence": "preparing.summary",
    "phantom_dataset": "phantom",
}

__all__ = [
    "DataError",
    "STUDY_COLUMNS",
    "load_study_dataset",
    "phantom_dataset",
    "plot_label_prevalence",
    "prepare_dataset",
    "study_features",
]

if TYPE_CHECKING:
    from otdrg_hf.data.errors import DataError
    from otdrg_hf.data.loading import load_study_dataset
    from otdrg_hf.data.phantom import phantom_dataset
    from otdrg_hf.data.preparing.command import prepare_dataset
    from otdrg_hf.data.preparing.summary import plot_label_prevalence
    from otdrg_hf.data.schema import STUDY_COLUMNS, study_features


def __getattr__(name: str):
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_MODULE_OF[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
