"""What an ablation trains: the variants of its file, over seeds, as stages of which those that agree are shared."""

import hashlib
import json
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args, get_type_hints

import yaml

from otdrg_hf.data.schema import SPLITS
from otdrg_hf.evaluation.baselines import BASELINES, SCORES
from otdrg_hf.metrics.protocols import get_protocol
from otdrg_hf.training.ablation.table import COLUMNS
from otdrg_hf.training.arguments import StudyArguments

SCRIPTS = {"otdrg": "otdrg_hf.training.sft", "llava": "otdrg_hf.training.ablation.llava"}
_VARIANT_KEYS = {"stages", "override", "script", "of", "true_labels", "baseline", "by"}


def _key_of(content: list) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:10]


@dataclass(frozen=True)
class Stage:
    """
    One training run.

    Attributes:
        script (`str`): Module that trains.
        fields (`dict`): The recipe, without `output_dir` and the checkpoint to start from.
        start (`Stage`, *optional*): The run whose model this one starts from.
    """

    script: str
    fields: dict[str, Any]
    start: "Stage | None" = None

    @property
    def key(self) -> str:
        """A name that follows from all that the outcome depends on."""
        return _key_of([self.script, self.fields, self.start.key if self.start else None])


@dataclass(frozen=True)
class Variant:
    """
    Attributes:
        name (`str`): As in the table.
        script (`str`): `"otdrg"` or `"llava"`.
        last_stages (`dict[int, Stage]`): By seed, the run whose model is evaluated.
        true_labels (`bool`): Whether its reports are prompted with the labels of the reference: an upper bound.
        baseline (`str`, *optional*): One of `BASELINES`, which trains nothing; its stages are those of the first
            variant, whose encoder finds the nearest neighbours.
        by (`str`): The score that chooses the constant.
    """

    name: str
    script: str
    last_stages: dict[int, Stage]
    true_labels: bool = False
    baseline: str | None = None
    by: str = "bleu_4"

    @property
    def needs_model(self) -> bool:
        """Whether its reports are those of a model, or are found by one."""
        return self.baseline in (None, "nearest")

    @property
    def predicts_labels(self) -> bool:
        """Whether it has a disease head that was trained, and whose labels are those that prompt its reports."""
        fields = next(iter(self.last_stages.values())).fields
        trained = fields.get("otdrg_config", {}).get("disease_loss_weight", 1.0) > 0
        return self.script == "otdrg" and trained and not self.true_labels and not self.baseline


@dataclass(frozen=True)
class Plan:
    """
    Attributes:
        dataset (`str`), load_kwargs (`dict`): As in a recipe.
        tests (`list[str]`): Splits that every variant is evaluated on.
        test_studies (`int`, *optional*): How many of each.
        seeds (`list[int]`), variants (`list[Variant]`): The first variant is what the others are compared with.
        columns (`list[str]`): Of the table, metrics or names in [`TITLES`]. Variants are compared by the first one.
        protocol (`str`): As in `otdrg evaluate`.
        section (`str`): The column of the dataset that is the reference.
    """

    dataset: str
    load_kwargs: dict[str, Any]
    tests: list[str]
    test_studies: int | None
    seeds: list[int]
    variants: list[Variant]
    columns: list[str] = field(default_factory=lambda: list(COLUMNS))
    protocol: str = "raw"
    section: str = "report"

    def predictions_key(self, variant: Variant, seed: int) -> str:
        """A name that follows from all that the predictions of a variant on a test split depend on, but the split."""
        trained = variant.last_stages[seed].key if variant.needs_model else None
        chosen = [variant.by, self.protocol] if variant.baseline == "constant" else None
        studies = [self.dataset, self.load_kwargs, self.section, self.test_studies]
        return _key_of([trained, studies, variant.true_labels, variant.baseline, chosen])


def read_plan(
    path: str | Path,
    dataset: str | None = None,
    tests: list[str] | None = None,
    seeds: list[int] | None = None,
    variants: list[str] | None = None,
) -> Plan:
    """
    Reads the YAML file of an ablation; see training/recipes/ablation_phantom_hard.yaml.

    Args:
        path (`str` or `Path`): The file. Recipes of its stages are named relative to it.
        dataset (`str`, *optional*):
            Another dataset than the file's, to be loaded without the file's `load_kwargs` and tested on those of the
            file's splits that are not its own dataset's alone.
        tests (`list[str]`, *optional*): Other splits to test on than the file's.
        seeds (`list[int]`, *optional*): Other seeds than the file's.
        variants (`list[str]`, *optional*): Only these of the file's variants, and the first.

    Raises:
        ValueError: for a file that does not say what it must, naming what is missing or unknown.
    """
    path = Path(path)
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    missing = {"dataset", "tests", "seeds", "stages", "variants"} - set(content or {})
    if missing:
        raise ValueError(f"{path.name} lacks {', '.join(sorted(missing))}.")
    common, load_kwargs, own_tests = dict(content.get("common", {})), content.get("load_kwargs", {}), content["tests"]
    if dataset not in (None, content["dataset"]):
        load_kwargs, own_tests = {}, [split for split in own_tests if split in SPLITS]
    common |= {"dataset": dataset or content["dataset"], "load_kwargs": load_kwargs}
    plan = Plan(
        dataset=common["dataset"],
        load_kwargs=load_kwargs,
        tests=tests or own_tests,
        test_studies=content.get("test_studies"),
        seeds=seeds or content["seeds"],
        variants=[],
        columns=content.get("columns", list(COLUMNS)),
        protocol=get_protocol(content.get("protocol", "raw")).name,
        section=content.get("section", "report"),
    )
    for name, fields in content["variants"].items():
        plan.variants.append(_variant(name, fields or {}, content, common, plan, path))
    if variants:
        unknown = set(variants) - {variant.name for variant in plan.variants}
        if unknown:
            raise ValueError(f"{path.name} has no variant {', '.join(sorted(unknown))}.")
        first, *others = plan.variants
        plan.variants[:] = [first, *(variant for variant in others if variant.name in variants)]
    return plan


def _variant(name: str, fields: dict, content: dict, common: dict, plan: Plan, path: Path) -> Variant:
    unknown = set(fields) - _VARIANT_KEYS
    if unknown:
        raise ValueError(f"{path.name}: variant {name!r} has no {', '.join(sorted(unknown))}.")
    if "of" in fields:
        known = {variant.name: variant for variant in plan.variants}
        if fields["of"] not in known:
            raise ValueError(f"{path.name}: {name!r} is of {fields['of']!r}, which is not a variant before it.")
        trained = known[fields["of"]]
        return Variant(name, trained.script, trained.last_stages, fields.get("true_labels", False))
    if "baseline" in fields:
        return _baseline(name, fields, plan, path)
    script = fields.get("script", "otdrg")
    if script not in SCRIPTS:
        raise ValueError(f"{path.name}: variant {name!r} has the script {script!r}; choose {' or '.join(SCRIPTS)}.")
    recipes = [_recipe(path.parent / recipe) for recipe in fields.get("stages", content["stages"])]
    overrides = _per_stage(fields.get("override", {}), recipes, name, path)
    last_stages = {}
    for seed in plan.seeds:
        stage = None
        for recipe, override in zip(recipes, overrides, strict=True):
            stage = Stage(SCRIPTS[script], _merged(recipe, common, {"seed": seed}, override), start=stage)
        last_stages[seed] = stage
    return Variant(name, script, last_stages, fields.get("true_labels", False))


def _baseline(name: str, fields: dict, plan: Plan, path: Path) -> Variant:
    baseline, by = fields["baseline"], fields.get("by", Variant.by)
    if baseline not in BASELINES or by not in SCORES:
        raise ValueError(
            f"{path.name}: variant {name!r} has the baseline {baseline!r} by {by!r}; choose from "
            f"{', '.join(BASELINES)}, and for a constant from {', '.join(SCORES)}."
        )
    if not plan.variants:
        raise ValueError(f"{path.name}: {name!r} comes first, which is what others are compared with: train one.")
    return Variant(name, "otdrg", plan.variants[0].last_stages, baseline=baseline, by=by)


def _recipe(path: Path) -> dict:
    fields = yaml.safe_load(path.read_text(encoding="utf-8"))
    # Where a stage starts and ends is the ablation's business.
    return {key: value for key, value in fields.items() if key not in ("output_dir", "model_name_or_path")}


def _per_stage(override: dict, recipes: list[dict], name: str, path: Path) -> list[dict]:
    """What a variant changes in each of its stages: the same in all of them, or by the stage's name."""
    stages = [recipe.get("stage", "joint") for recipe in recipes]
    if not override or not set(override) <= set(get_args(get_type_hints(StudyArguments)["stage"])):
        return [override] * len(stages)
    unknown = set(override) - set(stages)
    if unknown:
        raise ValueError(
            f"{path.name}: variant {name!r} overrides {', '.join(sorted(unknown))}, which it does not run."
        )
    return [override.get(stage, {}) for stage in stages]


def _merged(*parts: dict) -> dict:
    """Later parts win; mappings within are merged, not replaced."""
    merged: dict = {}
    for part in parts:
        for key, value in part.items():
            nested = isinstance(value, dict) and isinstance(merged.get(key), dict)
            merged[key] = _merged(merged[key], value) if nested else deepcopy(value)
    return merged
