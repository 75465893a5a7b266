"""Tests of what an ablation trains: shared stages, overrides, seeds, and files that cannot be."""

import subprocess
from pathlib import Path

import pytest
import yaml

import otdrg_hf.training
from otdrg_hf.training.ablation.evaluation import predictions_folder
from otdrg_hf.training.ablation.plan import read_plan
from otdrg_hf.training.ablation.running import run_stage, stage_folder
from otdrg_hf.training.arguments import LABEL_RATES, RecipeParser
from otdrg_hf.training.options import check_options

RECIPES = Path(otdrg_hf.training.__file__).parent / "recipes"
FILE = {
    "dataset": "phantom",
    "load_kwargs": {"image_size": 32},
    "common": {"train_studies": 4},
    "tests": ["test"],
    "seeds": [0, 1],
    "stages": ["align.yaml", "finetune.yaml"],
    "variants": {
        "full": {},
        "no loss": {"override": {"otdrg_config": {"ot_loss_weight": 0.0}}},
        "no mixing": {"override": {"finetune": {"predicted_label_rate": 0.0}}},
        "plain": {"stages": ["plain.yaml"], "script": "llava"},
        "upper": {"of": "full", "true_labels": True},
    },
}
STAGES = {
    "align.yaml": {"stage": "align", "output_dir": "x", "otdrg_config": {"epsilon": 0.1}, "learning_rate": 0.1},
    "finetune.yaml": {
        "stage": "finetune",
        "model_name_or_path": "x",
        "otdrg_config": {"background_mass": 0.4},
        "predicted_label_rate": 0.5,
    },
    "plain.yaml": {"stage": "joint"},
}


@pytest.fixture
def write(tmp_path):
    def write_file(**changes):
        for name, fields in STAGES.items():
            (tmp_path / name).write_text(yaml.safe_dump(fields))
        path = tmp_path / "ablation.yaml"
        path.write_text(yaml.safe_dump(FILE | changes, sort_keys=False))
        return path

    return write_file


def by_name(plan):
    return {variant.name: variant for variant in plan.variants}


def test_stages_that_agree_are_shared_and_others_are_not(write):
    variants = by_name(read_plan(write()))
    last = {name: variant.last_stages[0] for name, variant in variants.items()}
    assert last["full"].key == last["upper"].key != last["no mixing"].key
    assert last["full"].start.key == last["no mixing"].start.key != last["no loss"].start.key
    assert last["full"].key != variants["full"].last_stages[1].key
    assert variants["upper"].true_labels and not variants["full"].true_labels
    assert last["plain"].script.endswith("llava") and last["plain"].start is None


def test_labels_are_scored_where_a_trained_head_predicts_them(write):
    untrained = {"override": {"otdrg_config": {"disease_loss_weight": 0.0}}}
    variants = by_name(read_plan(write(variants=FILE["variants"] | {"untrained": untrained})))
    predicting = {name for name, variant in variants.items() if variant.predicts_labels}
    assert predicting == {"full", "no loss", "no mixing"}


def test_fields_of_a_stage_are_its_recipe_then_the_file_then_the_override(write):
    stage = by_name(read_plan(write()))["no loss"].last_stages[1]
    assert stage.start.fields == {
        "stage": "align",
        "learning_rate": 0.1,
        "otdrg_config": {"epsilon": 0.1, "ot_loss_weight": 0.0},
        "dataset": "phantom",
        "load_kwargs": {"image_size": 32},
        "train_studies": 4,
        "seed": 1,
    }
    assert stage.fields["otdrg_config"] == {"background_mass": 0.4, "ot_loss_weight": 0.0}


def test_another_dataset_comes_without_the_options_of_the_first(write):
    plan = read_plan(write(), dataset="elsewhere", tests=["validation"], seeds=[7], variants=["upper"])
    assert (plan.dataset, plan.tests, plan.seeds, plan.load_kwargs) == ("elsewhere", ["validation"], [7], {})
    assert [variant.name for variant in plan.variants] == ["full", "upper"]
    fields = plan.variants[0].last_stages[7].fields
    assert fields["dataset"] == "elsewhere" and fields["load_kwargs"] == {} and fields["seed"] == 7


def test_another_dataset_is_not_asked_for_a_split_that_only_the_files_own_has(write):
    path = write(dataset="phantom_hard", tests=["test", "test_broken"])
    assert read_plan(path).tests == read_plan(path, dataset="phantom_hard").tests == ["test", "test_broken"]
    assert read_plan(path, dataset="phantom_hard").load_kwargs == {"image_size": 32}
    assert read_plan(path, dataset="elsewhere").tests == ["test"]


def test_folders_differ_where_stages_do(write, tmp_path):
    variants = read_plan(write()).variants
    folders = {stage_folder(variant.last_stages[seed], tmp_path) for variant in variants for seed in (0, 1)}
    assert len(folders) == 8  # four trained variants, two seeds


def test_a_warm_up_is_overridden_by_its_name(write, tmp_path):
    (tmp_path / "warmup.yaml").write_text(yaml.safe_dump({"stage": "warmup", "max_steps": 3}))
    stages = ["warmup.yaml", "align.yaml"]
    plan = read_plan(write(stages=stages, variants={"full": {"override": {"warmup": {"max_steps": 5}}}}))
    align = plan.variants[0].last_stages[0]
    assert align.start.fields["max_steps"] == 5 and "max_steps" not in align.fields and "warmup" not in align.fields


@pytest.mark.parametrize("visible, first", [(None, "0"), ("2,3", "2"), ("", "")])
def test_a_stage_is_one_process_on_one_gpu(visible, first, write, tmp_path, monkeypatch):
    if visible is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    ran = []

    def run(command, env, **_):
        ran.append((command[1:3], env["CUDA_VISIBLE_DEVICES"]))
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(subprocess, "run", run)
    stage = by_name(read_plan(write()))["full"].last_stages[0]
    for _ in range(2):  # once
        run_stage(stage, tmp_path / "out")
    assert ran == [(["-m", "otdrg_hf.training.sft"], first)] * 2  # align, then finetune


def test_predictions_of_another_plan_are_others(write, tmp_path):
    baselines = {"a b": {"baseline": "constant"}, "a-b": {"baseline": "shuffled"}}
    file = {"variants": FILE["variants"] | baselines}

    def folders(dataset=None, **changes):
        plan = read_plan(write(**file | changes), dataset=dataset)
        return {variant.name: predictions_folder(plan, variant, 0, "test", tmp_path) for variant in plan.variants}

    before = folders()
    assert folders() == before and len(set(before.values())) == len(file["variants"])
    assert before["full"].name.startswith("test-") and before["full"].parts[-3:-1] == ("full", "seed_0")
    everything = set(before)
    for changes, changed in (
        ({"dataset": "elsewhere"}, everything),
        ({"load_kwargs": {"image_size": 64}}, everything),
        ({"section": "findings"}, everything),
        ({"test_studies": 5}, everything),
        ({"common": {"train_studies": 5}}, everything - {"a b", "a-b"}),
        ({"protocol": "r2gen-iu"}, {"a b"}),
        ({"columns": ["bleu_4"]}, set()),
        ({"tests": ["test", "validation"]}, set()),
    ):
        after = folders(**changes)
        assert {name for name in everything if after[name] != before[name]} == changed, changes


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"variants": {"full": {"stage": []}}}, "'full' has no stage"),
        ({"variants": {"full": {}, "upper": {"of": "ful"}}}, "'ful', which is not a variant before it"),
        ({"variants": {"full": {"script": "lava"}}}, "script 'lava'; choose otdrg or llava"),
        ({"variants": {"full": {"override": {"joint": {}}}}}, "overrides joint, which it does not run"),
        ({"stages": ["none.yaml"]}, "none.yaml"),
        ({"variants": {"full": {}, "b": {"baseline": "best"}}}, "'best' by 'bleu_4'; choose from constant, shuffled"),
        ({"variants": {"full": {}, "b": {"baseline": "constant", "by": "rouge_l"}}}, "by 'rouge_l'; choose from"),
        ({"variants": {"b": {"baseline": "constant"}}}, "'b' comes first"),
        ({"protocol": "r2gen"}, "unknown protocol 'r2gen'"),
    ],
)
def test_files_that_cannot_be(changes, message, write):
    with pytest.raises((ValueError, OSError), match=message):
        read_plan(write(**changes))


def test_missing_parts_are_named(tmp_path):
    path = tmp_path / "empty.yaml"
    path.write_text("dataset: phantom\n")
    with pytest.raises(ValueError, match="empty.yaml lacks seeds, stages, tests, variants"):
        read_plan(path)


def test_the_bundled_file_names_variants_of_the_method():
    plan = read_plan(RECIPES / "ablation_phantom_hard.yaml")
    names = [variant.name for variant in plan.variants]
    assert names[0] == "full" and "true labels (upper bound)" in names
    aligned = [variant for variant in plan.variants if variant.last_stages[0].start is not None]
    # Label mixing, the prompt and the labels at test time are no matter of the first stage.
    assert len({variant.last_stages[0].start.key for variant in aligned}) == 5


@pytest.mark.parametrize("path", sorted(RECIPES.glob("ablation_*_*.yaml")), ids=lambda path: path.stem)
def test_the_bundled_plans_ask_for_what_training_takes(path, tmp_path):
    if "variants" not in yaml.safe_load(path.read_text()):
        return
    recipe = tmp_path / "recipe.yaml"
    for variant in read_plan(path).variants:
        stage = variant.last_stages[0]
        while stage is not None:
            recipe.write_text(yaml.safe_dump(stage.fields | {"bf16": False, "use_cpu": True}))
            args, *others = RecipeParser().parse_args_and_config(["--config", str(recipe)])
            check_options(args, *others)
            assert args.label_prompt is not False or not any(getattr(args, name) for name in LABEL_RATES), variant.name
            stage = stage.start


def test_the_plan_for_iu_xray_has_every_row_of_the_table():
    plan = read_plan(RECIPES / "ablation_iu_xray.yaml")
    assert (plan.section, plan.protocol, plan.columns[0]) == ("findings", "r2gen-iu", "ce13_micro_f1")
    variants = by_name(plan)
    assert [variant.baseline for variant in plan.variants if variant.baseline] == [
        "nearest",
        "constant",
        "constant",
        "shuffled",
    ]
    shared = {"full", "without labels in the prompt", "true labels (upper bound)"}
    starts = {name: variant.last_stages[0].start for name, variant in variants.items()}
    assert len({starts[name].key for name in shared}) == 1
    assert starts["without OT loss"].key != starts["full"].key != starts["attention instead of transport"].key
    plain = variants["plain LLaVA"].last_stages[0].fields
    assert starts["plain LLaVA"] is None and plain["label_prompt"] is False
    trained = variants["plain LLaVA, encoder trained"].last_stages[0].fields
    full = variants["full"].last_stages[0]
    for name in ("train_vision_blocks", "vision_learning_rate"):
        assert trained[name] == full.start.fields[name] and name not in plain
    assert trained["finding_weight"] == full.fields["finding_weight"] and not trained["freeze_vision"]
    warmup = full.start.start
    assert warmup.key == variants["attention instead of transport"].last_stages[0].start.start.key
    assert plain["text_config"] == warmup.fields["text_config"]
    assert plain["max_steps"] == warmup.fields["max_steps"] + full.fields["max_steps"]
    assert not variants["plain LLaVA"].predicts_labels and variants["without OT loss"].predicts_labels
