"""Every hand-written sentence of sentences.txt and phenomena.txt gets the labels that a radiologist reads in it."""

from pathlib import Path

import pytest

from otdrg_hf.labeling import LABELS, STATES, label_reports

_SIGNS = {"+": "positive", "-": "negative", "?": "uncertain"}


def read_sentences(name):
    group = ""
    for line in Path(__file__).with_name(name).read_text(encoding="utf-8").splitlines():
        if line.startswith("["):
            group = line.strip("[]")
        elif line.strip() and not line.startswith("#"):
            sentence, _, claims = line.rpartition("=>")
            expected = {claim.strip()[1:]: _SIGNS[claim.strip()[0]] for claim in claims.split(",") if claim.strip()}
            assert set(expected) <= set(LABELS), line
            text = sentence.strip().replace("\\n", "\n").replace("\\t", "\t")
            yield pytest.param(group, text, expected, id=f"{group}: {sentence.strip()}")


SENTENCES = list(read_sentences("sentences.txt"))
PHENOMENA = list(read_sentences("phenomena.txt"))


@pytest.mark.parametrize("group, sentence, expected", SENTENCES + PHENOMENA)
def test_sentence(group, sentence, expected):
    found = {label: STATES[code] for label, code in zip(LABELS, label_reports([sentence])[0], strict=True) if code}
    if group != "no finding":
        found.pop("No Finding", None)
    assert found == expected


def test_there_are_enough_distinct_sentences():
    assert len({param.values[1].lower() for param in SENTENCES}) >= 150


def test_every_phenomenon_has_sentences_of_different_shape():
    groups = {}
    for param in PHENOMENA:
        groups.setdefault(param.values[0], set()).add(param.values[1])
    assert len(groups) >= 43 and all(len(sentences) >= 7 for sentences in groups.values())
