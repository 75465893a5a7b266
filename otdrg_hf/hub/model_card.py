"""The model card, filled from what training and evaluation recorded."""

import json
import os
from pathlib import Path
from typing import Any

from .card_file import CARD_FILE, render_card, save_card
from .figures import HEAD, TASK_TYPE, Figures, eval_results, figure_rows, label_rows
from .provenance import is_credentialed, read_stages, sources_of
from .sources import SOURCES, Source

PAPER = "2507.03908"
TAGS = ["radiology-report-generation", "radiology", "chest-x-ray", "medical", "otdrg", f"arxiv:{PAPER}"]
STAGE_TITLES = {
    "warmup": "warm-up: the language model, on reports and their labels without images",
    "align": "alignment: vision encoder, transport and disease head",
    "finetune": "fine-tuning: the language model and the bridges to it",
    "joint": "joint training of all parts",
    "unknown": "not recorded",
}


def write_model_card(
    model_dir: str | os.PathLike,
    figures: Figures | None = None,
    *,
    license: str | None = None,
    repo_id: str | None = None,
    output: str | os.PathLike | None = None,
) -> Path:
    """
    Writes the card of a model.

    Args:
        model_dir (`str` or `os.PathLike`): A folder with config.json, or of an adapter with its base; its
            training_record.json says how it came about.
        figures ([`Figures`], *optional*): Of an evaluation; they become the model-index.
        license (`str`, *optional*): The Hub's identifier of the model's licence. Default: that of the training data,
            where it is known.
        repo_id (`str`, *optional*): What the card calls the model. Default: the folder's name.
        output (`str` or `os.PathLike`, *optional*): Default: README.md in the folder.

    Returns:
        `Path`: of the card.

    Raises:
        ValueError: for a folder without an OTDRG model, a damaged record, or a card that would be overwritten.
    """
    folder = Path(model_dir)
    adapter = (folder / "adapter_config.json").is_file()
    config = read_config(folder / "base" if adapter else folder)
    name = repo_id or folder.absolute().name
    content = render_model_card(config, read_stages(folder), name, figures, license, adapter)
    path = Path(output) if output else folder / CARD_FILE
    save_card(path, content)
    return path


def read_config(folder: Path) -> dict[str, Any]:
    """The config.json of an OTDRG model; `ValueError` in one line where there is none."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"{folder.name} is no model folder: it has no config.json.") from None
    except (NotADirectoryError, ValueError):
        raise ValueError(f"{folder.name} is no model folder: its config.json cannot be read.") from None
    if not isinstance(config, dict) or config.get("model_type") != "otdrg":
        raise ValueError(f"{folder.name} holds no OTDRG model: its config.json says another model_type.")
    return config


def render_model_card(
    config: dict[str, Any],
    stages: list[dict[str, Any]],
    name: str,
    figures: Figures | None = None,
    license: str | None = None,
    adapter: bool = False,
) -> str:
    """The text of a model's card, its metadata on top."""
    from huggingface_hub import ModelCard, ModelCardData

    sources = sources_of(stages)
    synthetic = all(source.synthetic for source in sources)
    terms = _license(sources, license)
    bases = list(dict.fromkeys(stage[key] for stage in stages for key in _BASES if stage.get(key)))
    data = ModelCardData(
        language="en",
        **terms,
        library_name="transformers",
        pipeline_tag=TASK_TYPE,
        tags=[*TAGS, *(["synthetic"] if synthetic else [])],
        base_model=bases or None,
        model_name=name,
        eval_results=eval_results(figures) if figures else None,
    )
    return render_card(
        ModelCard,
        data,
        "model_card.md",
        model_id=name,
        notice=config.get("notice"),
        writes=config.get("trained_on_reports", True),
        synthetic=synthetic,
        known=all(source.known for source in sources),
        credentialed=is_credentialed(stages),
        sources=sources,
        stages=[_stage(stage) for stage in stages],
        bases=_base_models(stages),
        adapter=adapter,
        architecture=_architecture(config, stages[-1]),
        license_text=terms.get("license_name", terms.get("license")),
        license_given=license is not None,
        paper=PAPER,
        labels=config.get("label_names", []),
        figures=figures,
        has_head=figures is not None and any(name.startswith(HEAD) for name in figures.values),
        figure_rows=figure_rows(figures, headline=True) if figures else [],
        other_rows=figure_rows(figures, headline=False) if figures else [],
        label_rows=label_rows(figures) if figures else [],
    )


_BASES = ("vision_model", "text_model", "starts_from")


def _base_models(stages: list[dict[str, Any]]) -> list[str]:
    """What all stages started from, each with the licence that it states."""
    licenses: dict[str, str | None] = {}
    for stage in stages:
        for backbone in stage.get("backbones", ()):
            licenses[backbone["name"]] = backbone["license"]
        for key in _BASES:
            if stage.get(key):
                licenses.setdefault(stage[key], None)
    return [f"{name} (licence: {stated})" if stated else name for name, stated in licenses.items()]


def _license(sources: list[Source], given: str | None) -> dict[str, str]:
    """Metadata of the licence: what was given, else the data's own where all of it is of one known source."""
    if given is not None:
        return {"license": given}
    of_people = [source for source in sources if not source.synthetic] or sources[:1]
    if len(of_people) > 1 or of_people[0].license is None:
        return {}
    source = of_people[0]
    terms = {"license": source.license, "license_name": source.license_name, "license_link": source.license_link}
    return {key: value for key, value in terms.items() if value}


def _architecture(config: dict[str, Any], stage: dict[str, Any]) -> list[tuple[str, str]]:
    facts = [
        ("Vision encoder", config.get("vision_config", {}).get("model_type")),
        ("Language model", config.get("text_config", {}).get("model_type")),
        ("Parameters", f"{stage['parameters']:,}" if "parameters" in stage else None),
        ("Patches of a view", " x ".join(map(str, config.get("image_grid") or ())) or None),
    ]
    return [(name, value) for name, value in facts if value]


def _stage(stage: dict[str, Any]) -> dict[str, Any]:
    """A stage as the template shows it: names and values as text."""
    described = {"title": STAGE_TITLES[stage["stage"]], "source": SOURCES[stage["dataset"]].title, **stage}
    if "recipe" in stage:
        fields = {key: value for key, value in stage["recipe"].items() if not (key == "max_steps" and value < 0)}
        if stage["lora"]:
            fields |= {f"lora_{key}": value for key, value in stage["lora"].items()}
        fields |= {f"otdrg_config.{key}": value for key, value in stage["otdrg_config"].items() if key != "notice"}
        fields |= {"label_prompt": stage["label_prompt"]} if "label_prompt" in stage else {}
        fields |= {"precision": stage["precision"], "hardware": f"{stage['processes']} x {stage['device']}"}
        described["fields"] = fields
    return described
