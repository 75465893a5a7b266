"""Baselines in every evaluation: constant, shuffled and nearest-neighbour reports."""

import json
from pathlib import Path

import numpy as np
import pytest

from otdrg_hf.evaluation import evaluate_files
from otdrg_hf.evaluation.baselines import TrainingReports, best_constant, make_baselines, nearest, shuffled
from otdrg_hf.evaluation.report_files import read_training_reports
from otdrg_hf.metrics import evaluate_reports, paired_bootstrap

ANNOTATION = Path(__file__).parents[3] / "shared" / "data" / "iu_xray" / "annotation.json"

REFERENCES = [
    "The heart is enlarged. The lungs are clear.",
    "The heart is enlarged. No pneumothorax.",
    "There is a small right pleural effusion. No pneumothorax.",
    "The lungs are clear. No pneumothorax. The the the lungs.",
]
CANDIDATES = [
    *REFERENCES,
    "The heart is enlarged. There is a small right pleural effusion.",
    "Clear.",
    "the the the the",
]


@pytest.mark.parametrize("by", ["bleu_4", "bleu_1", "ce13_micro_f1", "ce14_micro_f1"])
@pytest.mark.parametrize("protocol", ["raw", "r2gen-iu"])
def test_the_constant_is_the_best_of_the_candidates(by, protocol):
    def score(text: str) -> float:
        return evaluate_reports([text] * len(REFERENCES), REFERENCES, meteor=False, protocol=protocol)[by]

    chosen = best_constant(CANDIDATES, REFERENCES, by, protocol)
    assert score(chosen) == pytest.approx(max(map(score, CANDIDATES)))


def test_shuffled_reports_are_those_of_others_each_once():
    reports = [f"report {index}" for index in range(50)]
    one, same, other = (shuffled(reports, seed) for seed in (0, 0, 1))
    assert sorted(one) == sorted(reports) and not any(a == b for a, b in zip(one, reports, strict=True))
    assert one == same != other


def test_the_nearest_neighbour_is_the_study_itself_where_it_is_there():
    features = np.random.default_rng(0).normal(size=(20, 8)) + 100
    reports = [str(index) for index in range(20)]
    assert nearest(features[[3, 7]] + 1e-4, features, reports) == ["3", "7"]


def test_equally_good_constants_are_told_apart_by_overlap():
    candidates = ["Lungs clear.", "The lungs are clear. No pneumothorax.", "Cardiomegaly."]
    assert best_constant(candidates, ["The lungs are clear. No pneumothorax."], "ce14_micro_f1") == candidates[1]


TRAINING = TrainingReports(
    ["The lungs are clear.", "The heart is enlarged.", "", "The lungs are clear."], REFERENCES[:2]
)


def test_constants_come_from_training_reports_and_are_chosen_on_validation():
    made = make_baselines(list("abcd"), REFERENCES, TRAINING)
    assert list(made) == ["constant", "constant_ce14", "constant_ce13", "shuffled"]
    assert made["constant"].reports == [best_constant(TRAINING.candidates(99), REFERENCES[:2], "bleu_4")] * 4
    assert made["constant_ce13"].reports == [REFERENCES[0]] * 4 and not made["constant_ce13"].peeks
    assert made["constant"].origin == ("of 4 training and validation texts the best by bleu_4 on 2 validation reports")
    assert set(made["shuffled"].reports) == set(REFERENCES)
    few = make_baselines(list("abcd"), REFERENCES, TRAINING, max_candidates=1, by="bleu_1")
    assert few["constant"].reports == ["The lungs are clear."] * 4
    no_validation = make_baselines(list("abcd"), REFERENCES, TrainingReports(TRAINING.train, []))
    assert "on 4 training reports" in no_validation["constant"].origin


def test_without_training_reports_the_constant_is_a_reference_and_says_that_it_peeks():
    made = make_baselines(list("abcd"), REFERENCES)
    assert made["constant"].peeks and made["constant"].reports[0] in REFERENCES
    assert "references themselves" in made["constant"].origin
    assert "shuffled" not in make_baselines(["a"], REFERENCES[:1])


def test_neighbours_are_given_by_id():
    made = make_baselines(list("abcd"), REFERENCES, neighbours={"b": "2", "a": "1", "d": "4", "c": "3", "x": "0"})
    assert made["nearest"].reports == ["1", "2", "3", "4"] and not made["nearest"].peeks


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"by": "rouge_l"}, "a constant cannot be chosen by 'rouge_l'; give one of bleu_1"),
        ({"max_candidates": 0}, "among 0 texts"),
        ({"training": TrainingReports([" "], [])}, "the training reports are all empty"),
    ],
)
def test_what_cannot_choose_a_constant_is_named(options, message):
    with pytest.raises(ValueError, match=message):
        make_baselines(list("abcd"), REFERENCES, **options)


def write_lines(path, texts, field="generated_text"):
    path.write_text("".join(json.dumps({"id": key, field: text}) + "\n" for key, text in texts.items()))
    return path


@pytest.fixture
def annotation(tmp_path):
    """An R2Gen annotation of 30 test studies, twenty of them with an effusion."""
    effusion = "There is a small left pleural effusion ."
    splits = {
        "train": [{"id": "t1", "report": "The lungs are clear ."}, {"id": "t2", "report": effusion}],
        "val": [{"id": "v1", "report": "The lungs are clear ."}, {"id": "v2", "report": effusion}],
        "test": [
            {"id": f"s{number}", "report": f"{effusion} Study {number} ." if number < 20 else "The lungs are clear ."}
            for number in range(30)
        ],
    }
    path = tmp_path / "annotation.json"
    path.write_text(json.dumps(splits))
    return path


def test_a_system_is_compared_with_the_best_constant_in_each_figure(annotation, tmp_path):
    references = {row["id"]: row["report"] for row in json.loads(annotation.read_text())["test"]}
    good = write_lines(tmp_path / "good.jsonl", references)
    same = write_lines(tmp_path / "same.jsonl", dict.fromkeys(references, "There is a small left pleural effusion ."))
    evaluation = evaluate_files([good, same], annotation, meteor=False, num_bootstrap=200)
    assert not any(baseline.peeks for name, baseline in evaluation.baselines.items() if name != "shuffled")
    for system in ("good", "same"):
        for name, test in evaluation.against_constant[system].items():
            card, constants = evaluation.cards[system], evaluation.baseline_cards
            best = max if not name.startswith(("hall", "omis")) else min
            value = best(
                constants[key].figures[name]
                for key in constants
                if key.startswith("constant") and constants[key].figures[name] is not None
            )
            assert test["difference"] == pytest.approx(card.figures[name] - value), name
            tests = paired_bootstrap(card.statistics, constants[test["constant"]].statistics, num_bootstrap=200)
            assert {key: test[key] for key in tests[name]} == tests[name]
            bound = test["low"] if best is max else -test["high"]
            assert test["beats"] == (bound > 0), name
    tests = evaluation.against_constant
    assert tests["good"]["ce13_micro_f1"]["beats"] and tests["good"]["bleu_4"]["beats"]
    assert not any(test["beats"] for test in tests["same"].values())
    assert evaluation.cards["good"].diversity["training_sentence_share"] > 0
    content = json.loads(evaluation.json())
    assert content["systems"]["same"]["against_constant"]["bleu_1"] == tests["same"]["bleu_1"]
    assert content["baselines"]["constant"]["figures"] == evaluation.baseline_cards["constant"].figures
    lines = evaluation.text().splitlines()
    assert lines[0].startswith("COLLAPSED: same gives 100% of the studies one and the same report (1 distinct; ")
    (row,) = [line for line in lines if line.startswith("| same ") and "†" in line][:1]
    assert all(cell.strip().endswith("†") for cell in row.split("|")[2:8])
    assert "†" not in next(line for line in lines if line.startswith("| good "))
    evaluation.write_html(tmp_path / "worst.html")
    assert "<strong>COLLAPSED: same gives 100%" in (tmp_path / "worst.html").read_text(encoding="utf-8")
    assert any(line.startswith("† does not beat the best constant: the 95% interval") for line in lines)


def test_java_is_started_once_for_all_systems_and_baselines(annotation, tmp_path, monkeypatch):
    starts = []

    def statistics(predictions, references):
        starts.append(len(predictions))
        return np.array(
            [[len(text), *[len(texts[0])] * 22] for text, texts in zip(predictions, references, strict=True)]
        )

    monkeypatch.setattr("otdrg_hf.metrics.report_card.meteor_statistics", statistics)
    references = {row["id"]: row["report"] for row in json.loads(annotation.read_text())["test"]}
    file = write_lines(tmp_path / "ours.jsonl", references)
    options = {"protocol": "r2gen-iu", "num_bootstrap": 0}
    evaluation = evaluate_files([file], annotation, **options)
    assert starts == [30 * 5]
    for name, card in {**evaluation.cards, **evaluation.baseline_cards}.items():
        texts = evaluation.baselines[name].reports if name in evaluation.baselines else list(references.values())
        alone = evaluate_reports(texts, evaluation.studies.references, **options)
        assert card.figures["meteor"] == pytest.approx(alone["meteor"]), name


def test_without_a_bootstrap_the_difference_decides(annotation, tmp_path):
    references = {row["id"]: row["report"] for row in json.loads(annotation.read_text())["test"]}
    evaluation = evaluate_files(
        [write_lines(tmp_path / "good.jsonl", references)], annotation, meteor=False, num_bootstrap=0
    )
    test = evaluation.against_constant["good"]["bleu_4"]
    assert test["beats"] and test["low"] is test["p_value"] is None


def test_baselines_alone_and_their_files(annotation, tmp_path):
    evaluation = evaluate_files([], annotation, meteor=False, num_bootstrap=20)
    assert evaluation.cards == {} and list(evaluation.baseline_cards)[0] == "constant"
    assert "| *constant* " in evaluation.text() and "COLLAPSED" not in evaluation.text()
    evaluation.write_baselines(tmp_path / "reports")
    again = evaluate_files([tmp_path / "reports/constant.jsonl"], meteor=False, num_bootstrap=20, baselines=False)
    assert again.cards["constant"].figures == evaluation.baseline_cards["constant"].figures
    assert again.baselines == again.against_constant == {} and "COLLAPSED: constant" in again.text()


def test_the_split_that_is_scored_chooses_no_constant(annotation):
    options = {"meteor": False, "num_bootstrap": 0}
    validation = evaluate_files([], annotation, split="val", **options)
    assert "of 2 training and validation texts" in validation.baselines["constant"].origin
    assert "on 2 training reports" in validation.baselines["constant"].origin
    assert TrainingReports(["a"], []).without("train") is None
    assert len(validation.studies.ids) == 2


def test_training_reports_of_any_kind(annotation, tmp_path):
    rows = [
        {"id": 1, "report": "a", "split": "val"},
        {"id": 2, "report": "b"},
        {"id": 3, "report": "c", "split": "test"},
        {"id": 4, "report": "d", "split": "validate"},
        {"id": 5, "report": "e", "split": "Train"},
        {"id": 6, "report": "f", "split": "Val"},
        {"id": 7, "report": "g", "split": None},
    ]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert read_training_reports(tmp_path / "train.jsonl") == TrainingReports(["b", "e", "g"], ["a", "d", "f"])
    (tmp_path / "typo.csv").write_text("id,report,split\n1,a,\n2,b,tarin\n")
    with pytest.raises(
        ValueError, match="^typo.csv line 3: unknown split 'tarin'; it is one of train, validation, test$"
    ):
        read_training_reports(tmp_path / "typo.csv")
    found = read_training_reports(annotation)
    assert (len(found.train), len(found.validation)) == (2, 2)


def test_masks_removed_for_a_system_are_removed_for_the_constant(tmp_path):
    rows = [{"id": str(n), "generated_text": "XXXX clear.", "reference": "XXXX clear lungs."} for n in range(3)]
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    kept, removed = (
        evaluate_files([tmp_path / "p.jsonl"], masks=policy, meteor=False, num_bootstrap=0)
        for policy in ("keep", "remove")
    )
    assert kept.baselines["constant"].reports[0] == "XXXX clear lungs."
    assert removed.baselines["constant"].reports[0] == "clear lungs."
    assert removed.cards["p"].record["masks"]["policy"] == "remove"
    assert "masks of de-identification (XXXX, ___): kept; 3 references have them" in kept.text()


@pytest.mark.skipif(not ANNOTATION.is_file(), reason="the real reports are not beside this checkout")
def test_the_constants_of_iu_xray():
    evaluation = evaluate_files(
        [], ANNOTATION, protocol="r2gen-iu", meteor=False, num_bootstrap=0, constant_by="bleu_1", constant_candidates=40
    )
    row = {"bleu_1": 0.438, "bleu_2": 0.2735, "bleu_3": 0.190, "bleu_4": 0.139, "rouge_l": 0.331, "cider": 0.208}
    figures = evaluation.baseline_cards["constant"].figures
    assert {name: figures[name] for name in row} == pytest.approx(row, abs=5e-4)
    # The best of all training texts is above R2Gen's .470 and .165, and finds nothing.
    best = evaluate_files([], ANNOTATION, protocol="r2gen-iu", meteor=False, num_bootstrap=0).baseline_cards
    assert (
        round(best["constant"].figures["bleu_1"], 3) == 0.500 and round(best["constant"].figures["bleu_4"], 3) == 0.172
    )
    assert best["constant"].figures["ce13_micro_f1"] == 0 and best["constant_ce14"].figures["ce14_micro_f1"] > 0.6
    assert best["shuffled"].figures["bleu_1"] == pytest.approx(0.407, abs=0.003)
    assert 0.05 < best["shuffled"].figures["ce13_micro_f1"] < 0.1
