"""The model card, filled from what training recorded and from the scores of an evaluation."""

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from otdrg_hf.data.schema import Source
from otdrg_hf.data.sources import SOURCES
from otdrg_hf.hub.card_file import CARD_FILE, render_card, save_card
from otdrg_hf.hub.eval_results_file import check_eval_results, save_eval_results
from otdrg_hf.hub.provenance import is_credentialed, read_stages, sources_of, transfer_line
from otdrg_hf.metrics.clinical import UNCERTAIN_POSITIVE

PAPER = "2507.03908"
TAGS = ["radiology-report-generation", "radiology", "chest-x-ray", "medical", "otdrg", f"arxiv:{PAPER}"]
STAGE_TITLES = {
    "warmup": "warm-up: the language model, on reports and their labels without images",
    "align": "alignment: vision encoder, transport and disease head",
    "finetune": "fine-tuning: the language model and the projectors to it",
    "joint": "joint training of all parts",
    "reward": "clinical reward: the language model, on its own samples (GRPO)",
    "unknown": "not recorded",
}
CLINICAL = re.compile(r"ce(14|13|5)_(micro|macro|macro_min10|example)_(precision|recall|f1)")
AVERAGES = {"example": "example-based", "macro_min10": "macro (10 positives or more)"}
NLG = {
    "bleu_1": ("bleu", "BLEU-1"),
    "bleu_2": ("bleu", "BLEU-2"),
    "bleu_3": ("bleu", "BLEU-3"),
    "bleu_4": ("bleu", "BLEU-4"),
    "rouge_l": ("rouge", "ROUGE-L"),
    "cider": ("cider", "CIDEr"),
    "meteor": ("meteor", "METEOR"),
}
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
COUNTED = {
    "hallucinations_per_report": "Labels stated without cause, per report",
    "omissions_per_report": "Labels left out, per report",
    "laterality_agreement": "Side agrees, where both reports name one",
}
# Of the labels that the disease head predicts from the images, apart from those that the written reports state.
HEAD = "disease_head_"
# Where the Hub lists the peers of these models.
TASK_TYPE, TASK_NAME = "image-text-to-text", "Radiology report generation"


@dataclass(frozen=True)
class Scores:
    """
    One system's scores on one dataset.

    Attributes:
        values (`dict[str, float]`): By the names of `evaluate_reports`, and `disease_head_NAME` of the labels that the
            model predicts, with `NAME_low` and `NAME_high` where there are intervals; without those not computed.
        labels (`list[dict]`): F1 of each label, uncertain as not positive.
        record (`dict`): Protocol, labeler, counts, bootstrap and versions; section and generation or `None`.
        dataset, split (`str`): What was evaluated on.
    """

    values: dict[str, float]
    labels: list[dict[str, Any]]
    record: dict[str, Any]
    dataset: str
    split: str

    @property
    def confidence(self) -> float | None:
        """Coverage of the intervals; `None` without."""
        return (self.record["bootstrap"] or {}).get("confidence")


def write_model_card(
    model_dir: str | os.PathLike,
    scores: Scores | None = None,
    *,
    license: str | None = None,
    repo_id: str | None = None,
    output: str | os.PathLike | None = None,
) -> Path:
    """
    Writes the card of a model and, next to it, its scores as `.eval_results/*.yaml`.

    Args:
        model_dir (`str` or `os.PathLike`): A folder with config.json, or of an adapter with its base; its
            training_record.json says how it came about.
        scores ([`Scores`], *optional*): Of an evaluation; they become the model-index and `.eval_results`.
        license (`str`, *optional*): The Hub's identifier of the model's licence. Default: that of the training data,
            where it is known.
        repo_id (`str`, *optional*): What the card calls the model. Default: the folder's name.
        output (`str` or `os.PathLike`, *optional*): Default: README.md in the folder.

    Returns:
        `Path`: of the card.

    Raises:
        ValueError: for a folder without an OTDRG model, a damaged record, or a card or results of someone that would be
            overwritten.
    """
    folder = Path(model_dir)
    adapter = (folder / "adapter_config.json").is_file()
    config = read_config(folder / "base" if adapter else folder)
    name = repo_id or folder.absolute().name
    content = render_model_card(config, read_stages(folder), name, scores, license, adapter)
    path = Path(output) if output else folder / CARD_FILE
    check_eval_results(path.parent)
    save_card(path, content)
    save_eval_results(path.parent, eval_result_entries(scores) if scores else [])
    return path


def read_config(folder: Path) -> dict[str, Any]:
    """The config.json of an OTDRG model; `ValueError` in one line where there is none."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"{folder.name} is not a model folder: it has no config.json.") from None
    except (NotADirectoryError, ValueError):
        raise ValueError(f"{folder.name} is not a model folder: its config.json cannot be read.") from None
    if not isinstance(config, dict) or config.get("model_type") != "otdrg":
        raise ValueError(f"{folder.name} does not hold an OTDRG model: its config.json says another model_type.")
    return config


def render_model_card(
    config: dict[str, Any],
    stages: list[dict[str, Any]],
    name: str,
    scores: Scores | None = None,
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
        eval_results=eval_results(scores) if scores else None,
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
        scores=scores,
        has_head=scores is not None and any(name.startswith(HEAD) for name in scores.values),
        score_rows=score_rows(scores, headline=True) if scores else [],
        other_rows=score_rows(scores, headline=False) if scores else [],
        label_rows=label_rows(scores) if scores else [],
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
        fields |= {f"reward {name}": weight for name, weight in stage.get("rewards", {}).items()}
        fields |= stage.get("reward_options", {})
        described["fields"] = fields
    if stage.get("transfer"):
        described["transfer_line"] = transfer_line(stage["transfer"])
        described["transfer_rows"] = [_transfer_row(compared) for compared in stage["transfer"]]
    return described


def _transfer_row(compared: dict[str, Any]) -> list[str]:
    """Of one watched dataset: its name, CE13 micro-F1 before and after, their difference, and the wording's scores."""

    def text(value: float | None) -> str:
        return "-" if value is None else f"{value:.3f}"

    def both(name: str) -> str:
        return f"{text(compared['before'][name])} -> {text(compared['after'][name])}"

    change = compared["difference"]["ce13_micro_f1"]
    difference = f"{text(change['difference'])} ({text(change['low'])} to {text(change['high'])})"
    name = f"{compared['name']}, {compared['studies']}"
    return [name, both("ce13_micro_f1"), difference, both("bleu_4"), both("rouge_l")]


def read_scores(
    path: str | os.PathLike, dataset: str | None = None, split: str | None = None, system: str | None = None
) -> Scores:
    """
    Reads what `otdrg evaluate -o` wrote.

    Args:
        path (`str` or `os.PathLike`): The file.
        dataset, split (`str`, *optional*): What was evaluated on. Default: what the file says, which it does where
            `otdrg evaluate --dataset` made the predictions, and the split `"test"` where it does not.
        system (`str`, *optional*): Which system of the file, if it compares several.

    Raises:
        ValueError: for a file of another form, several systems without a choice, a system that it has not, or a dataset
            or split that is not given, or is another than the file says.
        FileNotFoundError: if there is no such file.
    """
    name = Path(path).name
    try:
        systems = dict(json.loads(Path(path).read_text(encoding="utf-8"))["systems"])
    except FileNotFoundError:
        raise FileNotFoundError(f"There is no evaluation {name}: write it by otdrg evaluate -o {name}.") from None
    except (ValueError, KeyError, TypeError):
        raise ValueError(f"{name} is not an evaluation: give the file that otdrg evaluate -o wrote.") from None
    if system is None and len(systems) != 1:
        raise ValueError(f"{name} compares {', '.join(systems)}: choose one with --system.")
    if system is not None and system not in systems:
        raise ValueError(f"{name} has no system {system!r}, only {', '.join(systems)}.")
    card = systems[system or next(iter(systems))]
    try:
        head = card.get("disease_head", {"figures": {}})["figures"]
        values = {**card["figures"], **{f"{HEAD}{key}": value for key, value in head.items()}}
        values = {key: value for key, value in values.items() if value is not None}
        labels = [row for row in card["labels"] if not row["uncertain_positive"]]
        record = {key: card["record"][key] for key in ("protocol", "clinical", "counts", "bootstrap", "versions")}
        record |= {key: card["record"].get(key) for key in ("section", "generation")}
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{name} is not an evaluation: its system lacks {error}.") from None
    made = record["generation"] or {}
    for option, given, said in (("dataset", dataset, made.get("dataset")), ("split", split, made.get("split"))):
        if given is not None and said is not None and given != said:
            raise ValueError(f"{name} is an evaluation on the {option} {said}, not {given}.")
    dataset = dataset or made.get("dataset")
    if dataset is None:
        raise ValueError(f"{name} does not say which dataset it is about: give it by --evaluated_on.")
    title = SOURCES[dataset].title if dataset in SOURCES else dataset
    return Scores(values, labels, record, title, split or made.get("split", "test"))


def score_names(scores: Scores) -> list[str]:
    """The scores themselves, without their bounds, in the order of the evaluation."""
    return [name for name in scores.values if not name.endswith(("_low", "_high"))]


def describe_score(name: str) -> tuple[str, str]:
    """The metric's type for the model-index and its readable name."""
    plain = name.removesuffix(UNCERTAIN_POSITIVE).removeprefix(HEAD)
    other = " (uncertain counts as positive)" if name.endswith(UNCERTAIN_POSITIVE) else ""
    subject = "Predicted labels" if name.startswith(HEAD) else "Clinical efficacy"
    if plain in NLG:
        return NLG[plain]
    if match := CLINICAL.fullmatch(plain):
        labels, average, metric = match.groups()
        return (
            metric,
            f"{subject}, {labels} labels, {AVERAGES.get(average, average)} {metric.replace('f1', 'F1')}{other}",
        )
    readable = COUNTED.get(plain, plain.replace("_", " "))
    return plain, (f"{subject}: {readable}" if name.startswith(HEAD) else readable) + other


def eval_results(scores: Scores) -> list:
    """
    All scores as [`~huggingface_hub.EvalResult`]s.

    Interval, protocol, labeler and bootstrap are each metric's arguments; section and number of the reports are the
    dataset's.
    """
    from huggingface_hub import EvalResult

    counts = scores.record["counts"]
    about = {"reports": counts["reports"], "references": counts["references"], "section": scores.record["section"]}
    dataset = {
        "dataset_type": _slug(scores.dataset),
        "dataset_name": scores.dataset,
        "dataset_split": scores.split,
        "dataset_args": {key: value for key, value in about.items() if value is not None},
    }
    results = []
    for name in score_names(scores):
        metric_type, metric_name = describe_score(name)
        result = EvalResult(
            task_type=TASK_TYPE,
            task_name=TASK_NAME,
            metric_type=metric_type,
            metric_name=metric_name,
            metric_value=round(scores.values[name], 6),
            metric_args=_metric_args(scores, name),
            **dataset,
        )
        results.append(result)
    return results


def eval_result_entries(scores: Scores) -> list:
    """
    The headline scores as [`~huggingface_hub.EvalResultEntry`]s: a task for each, such as `bleu_4`.

    The dataset's id is that on the Hub where `--evaluated_on` gave one (`org/dataset`), else a plain name. Interval,
    split, number of reports, section, protocol and labeler are the notes.
    """
    from huggingface_hub import EvalResultEntry

    dataset = scores.dataset if _HUB_ID.fullmatch(scores.dataset) else _slug(scores.dataset)
    return [
        EvalResultEntry(
            dataset_id=dataset, task_id=name, value=round(scores.values[name], 6), notes=_entry_notes(scores, name)
        )
        for name in score_names(scores)
        if is_headline(name)
    ]


def _entry_notes(scores: Scores, name: str) -> str:
    record, arguments = scores.record, _metric_args(scores, name)
    notes = [
        describe_score(name)[1],
        f"split {scores.split}",
        f"{record['counts']['reports']} reports",
        f"section {record['section']}" if record["section"] else None,
        *(f"{key} {arguments[key]}" for key in ("protocol", "labeler") if key in arguments),
    ]
    if "low" in arguments:
        interval = f"{arguments['low']:.4f} to {arguments['high']:.4f}"
        notes.append(f"{arguments['confidence']:.0%} interval {interval}")
    return "; ".join(filter(None, notes))


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9_.-]+", "_", name.lower()).strip("_")


def _metric_args(scores: Scores, name: str) -> dict[str, Any]:
    record, bounds = scores.record, _bounds(scores, name)
    arguments: dict[str, Any] = {"figure": name}
    if name in NLG:
        arguments["protocol"] = record["protocol"]["name"]
        if "vocabulary" in record["protocol"]:
            arguments["vocabulary"] = record["protocol"]["vocabulary"]
    elif CLINICAL.search(name) or name.removesuffix(UNCERTAIN_POSITIVE).removeprefix(HEAD) in COUNTED:
        arguments["labeler"] = record["clinical"]["labeler"]
    if bounds:
        bootstrap = record["bootstrap"]
        arguments |= {"low": round(bounds[0], 6), "high": round(bounds[1], 6), "confidence": bootstrap["confidence"]}
        arguments |= {"bootstrap_samples": bootstrap["samples"], "bootstrap_seed": bootstrap["seed"]}
    return arguments


def _bounds(scores: Scores, name: str) -> tuple[float, float] | None:
    low, high = scores.values.get(f"{name}_low"), scores.values.get(f"{name}_high")
    return None if low is None or high is None else (low, high)


def is_headline(name: str) -> bool:
    """Whether a card shows the score at once: neither precision and recall, nor the other mapping of uncertain."""
    return not name.endswith((UNCERTAIN_POSITIVE, "_precision", "_recall"))


def score_rows(scores: Scores, headline: bool) -> list[tuple[str, str, str]]:
    """Name, value and interval, as text, of each score that is a headline, or of each other one."""
    rows = []
    for name in score_names(scores):
        if is_headline(name) != headline:
            continue
        bounds = _bounds(scores, name)
        interval = f"{bounds[0]:.3f} to {bounds[1]:.3f}" if bounds else ""
        rows.append((describe_score(name)[1], f"{scores.values[name]:.3f}", interval))
    return rows


def label_rows(scores: Scores) -> list[tuple[str, int, str, str]]:
    """Label, positives among the references, F1 and interval of each label, as text."""
    rows = []
    for row in scores.labels:
        interval = f"{row['f1_low']:.3f} to {row['f1_high']:.3f}" if row.get("f1_low") is not None else ""
        rows.append((row["label"], row["true_positives"] + row["false_negatives"], f"{row['f1']:.3f}", interval))
    return rows
