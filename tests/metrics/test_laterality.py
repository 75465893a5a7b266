"""The side of a finding in a report: of the finding, not of the sentence."""

import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from otdrg_hf.labeling import LABELS
from otdrg_hf.metrics.laterality import find_side_words, finding_sides, laterality_statistics
from tests.support.shared_cases import shared_cases

NAMES = {
    "eff": "Pleural Effusion",
    "ptx": "Pneumothorax",
    "atel": "Atelectasis",
    "cons": "Consolidation",
    "opac": "Lung Opacity",
    "les": "Lung Lesion",
    "fx": "Fracture",
    "plo": "Pleural Other",
    "pna": "Pneumonia",
    "dev": "Support Devices",
}
SIDES = {"L": 1, "R": 2, "B": 3}
CASES = [
    line.split(" | ")
    for line in (Path(__file__).parent / "sides.txt").read_text(encoding="utf-8").splitlines()
    if not line.startswith("#")
]


def sides_of(text):
    return {LABELS[at]: int(side) for at, side in enumerate(finding_sides([text])[0]) if side}


def agreement(prediction, reference):
    part = laterality_statistics(finding_sides([prediction]), finding_sides([reference]))
    return float(part.figures(part.totals(), 1)["laterality_agreement"])


@pytest.mark.parametrize("text, sides", CASES)
def test_sides_of_findings(text, sides):
    expected = {} if sides == "none" else dict(pair.split("=") for pair in sides.split())
    assert sides_of(text) == {NAMES[name]: SIDES[side] for name, side in expected.items()}


# Words that have no mirror image.
ONE_SIDED = re.compile(r"\b[LR]\b|\b[LR][UML]L\b|ingula|middle|RUE|LIJ|above|in place|[Rr]t\b|[Ll]t\b", re.IGNORECASE)


@pytest.mark.parametrize("text", [text for text, _ in CASES if not ONE_SIDED.search(text)])
def test_mirrored_sentences_have_mirrored_sides(text):
    mirror = {"left": "right", "right": "left"}
    mirrored = re.sub(r"\b(left|right)", lambda word: mirror[word[1].lower()], text, flags=re.IGNORECASE)
    assert sides_of(mirrored) == {name: {1: 2, 2: 1, 3: 3}[side] for name, side in sides_of(text).items()}


@pytest.mark.parametrize(
    "prediction, reference, agreed",
    [
        ("Right effusion and left pneumothorax.", "Left effusion and right pneumothorax.", 0.0),
        ("Effusion on the left, nodule on the right.", "Effusion on the right, nodule on the left.", 0.0),
        ("LUL nodule.", "RUL nodule.", 0.0),
        ("Lingular opacity.", "Right middle lobe opacity.", 0.0),
        ("Left effusion without right pneumothorax.", "Left effusion.", 1.0),
        ("Right chest tube tip near the left atrium.", "Right chest tube.", 1.0),
        ("Left effusion, elevated right hemidiaphragm.", "Left effusion.", 1.0),
        ("Left rib fractures and right effusion.", "Right effusion and left rib fractures.", 1.0),
        ("R effusion.", "Right pleural effusion.", 1.0),
        ("Effusions, R > L.", "Bilateral effusions.", 1.0),
        ("Left effusion.", "Bilateral effusions.", 0.0),
        ("Left effusion and right nodule.", "Left effusion and left nodule.", 0.5),
    ],
)
def test_agreement_of_pairs(prediction, reference, agreed):
    assert agreement(prediction, reference) == agreed


def test_a_report_joins_its_sentences():
    text = "FINDINGS: Left effusion. No left pneumothorax.\nIMPRESSION: Small right effusion; right nodule."
    assert sides_of(text) == {"Pleural Effusion": 3, "Lung Lesion": 2}


def test_sections_that_do_not_describe_the_image_have_no_side():
    assert sides_of("INDICATION: Left effusion.\nFINDINGS: Right effusion.") == {"Pleural Effusion": 2}


def test_the_heart_has_no_side():
    assert sides_of("Left effusion and cardiomegaly. Left ventricular enlargement.") == {"Pleural Effusion": 1}


def test_uncertain_and_denied_findings_have_no_side():
    assert sides_of("No left effusion.") == sides_of("Possible left pneumonia.") == {}


NO_SIDES = """right atrium, left ventricular lead, the right heart border, right-sided aortic arch, left hemidiaphragm
right main bronchus, left mainstem, left pulmonary artery, right upper quadrant, shifted to the left, leftward
left in place, right now, left lateral decubitus view, 2 L of fluid, r/o, L1, L-spine, right breast, turned to the right
convex to the left, rather than left, in the right brachiocephalic vein, right and left atria, left lower lobe bronchus
scoliosis of the spine to the right, none on the left, right and left ventricles, right cardiac border"""


@pytest.mark.parametrize("text", re.split(r", |\n", NO_SIDES))
def test_what_is_not_a_side(text):
    assert find_side_words(text) == []


@pytest.mark.parametrize(
    "text, side",
    [(text, 1) for text in "left,Left-sided,LEFT,lt,L,LUL,LLL,lingula,lingular,left-side,LIJ".split(",")]
    + [(text, 2) for text in "right,right sided,rt,R,RUL,RML,RLL,middle lobe,RIJ".split(",")]
    + [
        (text, 3)
        for text in "bilateral,bilaterally,both lungs,both lower lobes,bibasilar,bi-basilar,biapical,bases".split(",")
    ]
    + [
        (text, 3)
        for text in "L > R,left greater than right,right more than left,right and left,lower lobes,B/L".split(",")
    ],
)
def test_words_for_a_side(text, side):
    assert [word.side for word in find_side_words(text)] == [side]
    assert [word.side for word in find_side_words(f"opacity {text} .")] == [side]


WORDS = "left right bilateral no effusion pneumothorax nodule opacity in the and , ; with lung is of but atrium L RLL ."
words = st.sampled_from(WORDS.split())


@given(st.lists(words, max_size=20))
def test_any_sentence_is_read(parts):
    sides = finding_sides([" ".join(parts)])
    assert sides.shape == (1, 14) and sides.max() <= 3
    assert not sides[:, LABELS.index("No Finding")].any()
    if not {"left", "right", "bilateral", "L", "RLL"} & set(parts):
        assert not sides.any()


@given(st.text())
def test_any_text_is_read(text):
    assert finding_sides([text]).shape == (1, 14)


def test_many_reports_are_those_one_by_one():
    texts = [text for text, _ in CASES]
    assert np.array_equal(finding_sides(texts), np.concatenate([finding_sides([text]) for text in texts]))


@pytest.mark.parametrize("case", shared_cases("metric.json", lambda case: case["name"] == "laterality_agreement"))
def test_cases_from_the_field(case):
    assert agreement(case["input"]["prediction"], case["input"]["reference"]) == case["expected"]
