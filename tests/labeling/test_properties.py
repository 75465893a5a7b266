"""Properties that hold for every report: what must not change labels does not, and what must, does."""

import random
import re

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from otdrg_hf.labeling import LABELS, STATES, label_reports
from otdrg_hf.labeling.labels import NEGATIVE, POSITIVE
from otdrg_hf.labeling.sections import split_sections

from .test_sentences import SENTENCES

ONE_SENTENCE = [
    sentence
    for group, sentence, _ in (param.values for param in SENTENCES)
    if re.fullmatch(r"[A-Za-z][^:\n]*\.", sentence)
    and group not in ("list items and layout", "no finding")
    and split_sections(sentence) == [("", 0, len(sentence))]  # no header, behind which others would be read differently
]
MENTIONS = {
    "pleural effusion": "Pleural Effusion",
    "right pneumothorax": "Pneumothorax",
    "focal consolidation": "Consolidation",
    "left basilar atelectasis": "Atelectasis",
    "pulmonary edema": "Edema",
    "lobar pneumonia": "Pneumonia",
    "cardiomegaly": "Cardiomegaly",
    "pulmonary nodule": "Lung Lesion",
    "rib fracture": "Fracture",
    "airspace opacity": "Lung Opacity",
    "pleural thickening": "Pleural Other",
    "mediastinal widening": "Enlarged Cardiomediastinum",
}
POSITIVE_FRAMES = ("There is {}.", "{} is seen.", "{} is again noted.", "Findings consistent with {}.", "Stable {}.")
NEGATIVE_FRAMES = (
    "There is no {}.",
    "No {} is seen.",
    "No evidence of {}.",
    "{} is not seen.",
    "Without {}.",
    "{} has resolved.",
)

reports = st.lists(st.sampled_from(ONE_SENTENCE), min_size=1, max_size=8)
fast = settings(max_examples=60, deadline=None)


def labels(text):
    return label_reports([text])[0].tolist()


@fast
@given(reports, st.randoms(use_true_random=False))
def test_order_of_sentences(sentences, rng):
    shuffled = rng.sample(sentences, len(sentences))
    assert labels(" ".join(sentences)) == labels(" ".join(shuffled))


@fast
@given(reports, st.sampled_from([str.upper, str.lower, str.title, str.swapcase]))
def test_case(sentences, change):
    text = " ".join(sentences)
    assert labels(change(text)) == labels(text)


@fast
@given(reports, st.integers(0, 2**32 - 1))
def test_white_space(sentences, seed):
    rng = random.Random(seed)
    text = " ".join(sentences)
    spaced = "".join(rng.choice([" ", "  ", "\t", "\n", " \n "]) if c == " " else c for c in text)
    assert labels(spaced) == labels(text)


@fast
@given(reports, st.integers(0, 2**32 - 1), st.sampled_from(["XXXX", "xxxx", "___"]))
def test_masks(sentences, seed, mask):
    rng = random.Random(seed)
    words = " ".join(sentences).split(" ")
    masked = [piece for word in words for piece in ([mask, word] if rng.random() < 0.3 else [word])]
    assert labels(" ".join(masked)) == labels(" ".join(words))


@fast
@given(st.sampled_from(sorted(MENTIONS)), st.sampled_from(POSITIVE_FRAMES), st.sampled_from(NEGATIVE_FRAMES))
def test_negating_flips(mention, positive, negative):
    column = LABELS.index(MENTIONS[mention])
    assert labels(positive.format(mention))[column] == POSITIVE
    assert labels(negative.format(mention))[column] == NEGATIVE


@fast
@given(st.lists(st.sampled_from(sorted(MENTIONS)), min_size=2, max_size=5, unique=True), st.sampled_from(["or", "nor"]))
def test_negation_reaches_every_member_of_a_list(mentions, joint):
    text = f"No {', '.join(mentions[:-1])} {joint} {mentions[-1]}."
    assert {labels(text)[LABELS.index(MENTIONS[m])] for m in mentions} == {NEGATIVE}


@fast
@given(reports)
def test_spans_lie_inside_and_read_as_the_evidence(sentences):
    text = "IMPRESSION: " + " ".join(sentences)
    array, (evidence,) = label_reports([text], explain=True)
    for label, mentions in evidence.items():
        for mention in mentions:
            start, end = mention.span
            assert 0 <= start < end <= len(text)
            assert text[start:end] == mention.text != ""
            assert mention.label == label in LABELS
            assert mention.state in STATES[1:]
    named = {label for label, code in zip(LABELS, array[0], strict=True) if code and label != "No Finding"}
    assert named == set(evidence) - {"No Finding"}


@fast
@given(reports)
def test_no_finding_only_when_nothing_else(sentences):
    state = dict(zip(LABELS, labels(" ".join(sentences)), strict=True))
    diseases = [code for label, code in state.items() if label not in ("No Finding", "Support Devices")]
    assert state["No Finding"] in (0, POSITIVE)
    if state["No Finding"]:
        assert not {1, 3} & set(diseases)


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=300))
def test_any_text_is_labelled(text):
    array, (evidence,) = label_reports([text], explain=True)
    assert array.shape == (1, 14) and array.dtype == np.int8
    for mentions in evidence.values():
        assert all(text[slice(*m.span)] == m.text for m in mentions)


@fast
@given(st.lists(reports, max_size=5))
def test_reports_do_not_influence_each_other(many):
    texts = [" ".join(sentences) for sentences in many]
    together = label_reports(texts)
    assert together.shape == (len(texts), 14)
    assert [row.tolist() for row in together] == [labels(text) for text in texts]
