"""Baselines that train nothing: constant, shuffled and nearest-neighbour reports, and the table that they stand in."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from tiny_runs import write_recipe
from tiny_training import LLAMA, OTDRG, VIT, tiny_model, tiny_rows, tiny_studies, write_study_folder

from otdrg_hf.labeling import LABELS
from otdrg_hf.training.ablate import run_ablation
from otdrg_hf.training.ablation import llava
from otdrg_hf.training.ablation.baselines import EncoderFeatures, write_baseline
from otdrg_hf.training.ablation.plan import read_plan
from otdrg_hf.training.ablation.table import FINDINGS, label_auroc, markdown_table, read_result

REFERENCES = [
    "The heart is enlarged. The lungs are clear.",
    "The heart is enlarged. No pneumothorax.",
    "There is a small right pleural effusion. No pneumothorax.",
    "The lungs are clear. No pneumothorax.",
]


def test_features_are_means_of_the_patches_of_all_views(tmp_path):
    model, processor = tiny_model()
    model.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    studies = tiny_studies(3)
    features = EncoderFeatures(tmp_path / "model", tmp_path / "cache")(studies)
    assert features.shape == (3, VIT["hidden_size"])
    with torch.no_grad():
        tower = model.model.vision_tower.eval()
        for study, expected in zip(tiny_rows(3), features, strict=True):
            pixels = processor(images=[study["images"]])["pixel_values"][0]
            patches = tower(pixels).last_hidden_state[:, 1:]
            torch.testing.assert_close(patches.mean((0, 1)), expected, atol=1e-3, rtol=1e-2)


def write_predictions(folder: Path, reports: list[str], **columns: list) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / "predictions.jsonl"
    rows = [
        {"id": str(index), "generated_text": report, "reference": reference}
        | {name: values[index] for name, values in columns.items()}
        for index, (report, reference) in enumerate(zip(reports, REFERENCES, strict=True))
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_columns_are_those_of_the_plan_and_ce13_leaves_no_finding_out(tmp_path):
    perfect = read_result([write_predictions(tmp_path / "a", REFERENCES)], has_head=False)
    wrong = read_result([write_predictions(tmp_path / "b", [REFERENCES[3]] * 4)], has_head=False)
    assert perfect.mean("ce13_micro_f1") == 1 and wrong.mean("ce13_micro_f1") == 0 < wrong.mean("ce14_micro_f1")
    assert perfect.mean("ce13_macro_f1") == pytest.approx(2 / 13)  # of the labels that never occur, 0
    table = markdown_table({"full": perfect, "wrong": wrong}, ["ce13_micro_f1", "distinct_reports", "label_auroc"])
    header, _, first, second = table.splitlines()
    assert header == "| Variant | CE13 micro-F1 | distinct reports | labels, AUROC | full - variant, CE13 micro-F1 |"
    assert first == "| full | 1.000 | 4 | - |  |"
    assert second.startswith("| wrong | 0.000 | 1 | - | +1.000 [")


def test_auroc_counts_findings_with_enough_positives():
    actual = np.zeros((20, 14), dtype=bool)
    actual[:8, 0], actual[:7, 1], actual[:10, FINDINGS[-1]] = True, True, True
    actual[:10, LABELS.index("No Finding")] = True
    scores = np.tile(np.arange(20.0)[::-1, None], (1, 14))
    assert label_auroc(scores, actual) == 1 and label_auroc(-scores, actual) == 0
    scores[:, 0] *= -1
    assert label_auroc(scores, actual) == 0.5
    assert np.isnan(label_auroc(scores, np.zeros_like(actual)))


def test_baselines_are_written_as_predictions_and_again_after_an_interruption(tmp_path):
    studies = tiny_studies(3)
    path = write_baseline(tmp_path, "constant", studies, "report", ["Clear."] * 3)
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows[:1]))
    write_baseline(tmp_path, "constant", studies, "report", ["Clear."] * 3)
    assert [json.loads(line) for line in path.read_text().splitlines()] == rows
    assert [row["reference"] for row in rows] == list(studies["report"])


RECIPE = {
    "labels_from": "dataset",
    "vision_config": VIT,
    "text_config": LLAMA,
    "otdrg_config": OTDRG,
    "max_steps": 1,
    "per_device_train_batch_size": 2,
    "bf16": False,
    "use_cpu": True,
    "gradient_checkpointing": False,
    "save_strategy": "no",
    "report_to": "none",
    "target": "findings",
}


def test_a_table_with_all_kinds_of_rows(tmp_path):
    data = write_study_folder(tmp_path, train=6, validation=4, test=5)
    (tmp_path / "joint.yaml").write_text(yaml.safe_dump(RECIPE))
    plan = {
        "dataset": str(data),
        "load_kwargs": {"cache_dir": str(tmp_path / "cache")},
        "section": "findings",
        "protocol": "r2gen-iu",
        "tests": ["test"],
        "seeds": [0],
        "stages": ["joint.yaml"],
        "columns": ["ce13_micro_f1", "bleu_4", "distinct_reports", "label_micro_f1", "label_auroc"],
        "variants": {
            "full": {},
            "neighbour": {"baseline": "nearest"},
            "constant": {"baseline": "constant", "by": "ce13_micro_f1"},
            "shuffled": {"baseline": "shuffled"},
        },
    }
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump(plan, sort_keys=False))
    table = run_ablation(read_plan(tmp_path / "plan.yaml"), tmp_path / "out", jobs=2)
    rows = {line.split(" | ")[0].removeprefix("| "): line for line in table.splitlines() if line.startswith("| ")}
    assert list(rows) == ["Variant", "full", "neighbour", "constant", "shuffled"]
    predictions = tmp_path / "out/predictions"
    texts = {
        name: [
            json.loads(line)
            for path in predictions.glob(f"{name}/seed_0/test-*/predictions.jsonl")
            for line in path.open()
        ]
        for name in ("full", "neighbour", "constant", "shuffled")
    }
    assert all(len(lines) == 5 and {line["section"] for line in lines} == {"findings"} for lines in texts.values())
    assert len({line["generated_text"] for line in texts["constant"]}) == 1
    assert sorted(line["generated_text"] for line in texts["shuffled"]) == sorted(
        line["reference"] for line in texts["shuffled"]
    )
    (scores,) = (json.loads(path.read_text()) for path in predictions.glob("full/seed_0/test-*/label_scores.json"))
    assert {len(values) for values in scores.values()} == {14} and len(scores) == 5
    results = json.loads((tmp_path / "out/results.json").read_text())["test"]["variants"]
    assert "label_auroc" in results["full"]["per_seed"][0] and "label_auroc" not in results["constant"]["per_seed"][0]
    assert (tmp_path / "out/variants.png").stat().st_size > 1000
    written = {path: path.stat().st_mtime_ns for path in predictions.glob("**/*.json*")}
    assert run_ablation(read_plan(tmp_path / "plan.yaml"), tmp_path / "out") == table
    assert {
        path: path.stat().st_mtime_ns for path in predictions.glob("**/*.json*")
    } == written  # nothing is done twice

    (tmp_path / "joint.yaml").write_text(yaml.safe_dump(RECIPE | {"learning_rate": 1.0}))
    run_ablation(read_plan(tmp_path / "plan.yaml", variants=["full"]), tmp_path / "out")
    again = set(predictions.glob("**/*.json*")) - set(written)
    assert {path.name for path in again if "full" in path.parts} == {
        path.name for path in written if "full" in path.parts
    }
    assert {path: path.stat().st_mtime_ns for path in written} == written


@pytest.mark.parametrize("options", [{"freeze_vision": True}, {"finding_weight": 3.0}])
def test_the_llava_of_transformers_refuses_what_it_would_not_do(options, tmp_path):
    recipe = write_recipe(tmp_path, tmp_path, stage="joint", label_prompt=False, **options)
    with pytest.raises(ValueError, match=f"{next(iter(options))}: transformers' LLaVA is trained from scratch"):
        llava.main(["--config", recipe])
