"""Agreement of the labeler with the gold labels of real IU X-Ray reports, where those are at hand.

gold_disputed.csv lists disagreements judged to be the gold's fault; they count all the same. Its reasons: stated (the
report states the finding, the gold has 0), denied (it denies the finding, the gold has 1), shadow (an enlarged cardiac
silhouette that the gold does not call cardiomegaly), scar (scarring that the gold calls a nodule), typo (the report
lacks a word).
"""

from pathlib import Path

import pytest

from otdrg_hf.evaluation.agreement import GOLD_COLUMNS, agreement, agreement_table, iu_texts, read_disputed, read_gold

DATA = Path(__file__).resolve().parents[3] / "shared" / "data" / "iu_xray"
GOLD, REPORTS = DATA / "gold_labels_dev.csv", DATA / "NLMCXR_reports.tgz"
DISPUTED = Path(__file__).with_name("gold_disputed.csv")

needs_data = pytest.mark.skipif(
    not (GOLD.exists() and REPORTS.exists()), reason="no IU X-Ray reports and gold labels beside this checkout"
)


@pytest.fixture(scope="module")
def rows():
    return agreement(iu_texts(REPORTS), read_gold(GOLD), read_disputed(DISPUTED))


@needs_data
def test_micro_f1_of_positives_reaches_the_goal(rows):
    assert rows[-1].label == "micro"
    assert rows[-1].f1 >= 0.925, agreement_table(rows)


@needs_data
def test_only_the_conventions_that_differ_part_the_labels_from_the_gold(rows):
    as_they_are = agreement(iu_texts(REPORTS), read_gold(GOLD), as_gold=False)
    for counted, plain in zip(rows, as_they_are, strict=True):
        assert plain.true_positive <= counted.true_positive and plain.false_positive <= counted.false_positive
    assert as_they_are[-1].precision >= rows[-1].precision


@needs_data
def test_every_label_is_found_in_the_gold(rows):
    assert [row.label for row in rows[:-1]] == list(GOLD_COLUMNS)
    assert all(row.true_positive > 0 for row in rows)


@needs_data
def test_every_disputed_pair_is_still_a_disagreement(rows):
    assert rows[-1].disputed == len(read_disputed(DISPUTED))


def test_counts_of_a_small_example():
    texts = {"a": "Small effusion.", "b": "No effusion.", "c": "Pneumonia.", "without gold": "Edema."}
    negative = dict.fromkeys(GOLD_COLUMNS, False)
    gold = {
        "a": negative | {"Pleural Effusion": True},
        "b": negative | {"Pleural Effusion": True},
        "c": negative,
        "without text": negative,
    }
    rows = {row.label: row for row in agreement(texts, gold, {("b", "Pleural Effusion"), ("a", "Pleural Effusion")})}
    effusion, micro = rows["Pleural Effusion"], rows["micro"]
    assert (effusion.true_positive, effusion.false_positive, effusion.false_negative) == (1, 0, 1)
    assert (effusion.precision, effusion.recall, effusion.f1) == (1.0, 0.5, pytest.approx(2 / 3))
    assert rows["Pneumonia"].false_positive == 1
    assert (micro.true_positive, micro.false_positive, micro.false_negative, micro.disputed) == (1, 1, 1, 1)
    assert "| micro | 2 | 0.500 | 0.500 | 0.500 | 1 | 1 | 1 |" in agreement_table(list(rows.values()))


@pytest.mark.parametrize(
    "text, label, as_gold, plain",
    [
        ("Atelectasis or scarring.", "Atelectasis", True, False),
        ("Atelectasis versus pneumonia.", "Pneumonia", True, False),
        ("Possible atelectasis.", "Atelectasis", False, False),
        ("Borderline cardiomegaly.", "Cardiomegaly", True, False),
        ("Possible cardiomegaly.", "Cardiomegaly", False, False),
        ("Calcified left lung nodule.", "Lung Lesion", True, False),
        ("Calcified aorta. No nodule.", "Lung Lesion", False, False),
        ("Lung mass.", "Lung Lesion", True, True),
    ],
)
def test_what_the_gold_counts_as_present(text, label, as_gold, plain):
    gold = {"a": dict.fromkeys(GOLD_COLUMNS, True)}
    for convention, expected in ((True, as_gold), (False, plain)):
        found = {row.label: row.true_positive for row in agreement({"a": text}, gold, as_gold=convention)}
        assert found[label] == expected


def test_a_gold_file_without_a_column_is_named(tmp_path):
    path = tmp_path / "gold.csv"
    path.write_text("filename,Atelectasis\nCXR1,0\n")
    with pytest.raises(ValueError, match="gold.csv: column 'Cardiomegaly' is missing"):
        read_gold(path)
