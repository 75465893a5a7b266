"""BLEU, ROUGE-L and CIDEr are pycocoevalcap's to 1e-9, and METEOR is its jar's."""

import os
import shutil

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from otdrg_hf.metrics.bleu import bleu_from_totals, bleu_statistics, corpus_bleu
from otdrg_hf.metrics.cider import cider, cider_scores
from otdrg_hf.metrics.meteor import NEEDS_JAVA, MeteorUnavailableError, meteor, meteor_from_totals, meteor_statistics
from otdrg_hf.metrics.ngrams import pair_ngrams
from otdrg_hf.metrics.rouge import longest_common_subsequence, rouge_l, rouge_l_scores

WORDS = st.lists(st.sampled_from(["no", "effusion", ".", "left", "left"]), max_size=12).map(" ".join)
TEXTS = st.one_of(WORDS, st.sampled_from(["", " ", "no", "left  left", "no effusion . no effusion ."]))
PAIRS = st.lists(st.tuples(TEXTS, st.lists(TEXTS, min_size=1, max_size=3)), min_size=1, max_size=8)


def coco_scores(predictions, references):
    """pycocoevalcap's figures of a set and of each report."""
    pytest.importorskip("pycocoevalcap")
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.rouge.rouge import Rouge

    truth = dict(enumerate(references))
    found = {index: [text] for index, text in enumerate(predictions)}
    answer = {
        "bleu": Bleu(4).compute_score(truth, found, verbose=0),
        "rouge": Rouge().compute_score(truth, found),
    }
    # Its Cider stops with "max() arg is an empty sequence" where no reference holds a word.
    if any(text.split() for texts in references for text in texts):
        answer["cider"] = Cider().compute_score(truth, found)
    return answer


def assert_equal_to_coco(predictions, references):
    expected = coco_scores(predictions, references)
    ngrams = pair_ngrams(predictions, references)
    np.testing.assert_allclose(corpus_bleu(predictions, references), expected["bleu"][0], rtol=0, atol=1e-9)
    single = bleu_from_totals(bleu_statistics(ngrams)).T
    np.testing.assert_allclose(single, expected["bleu"][1], rtol=0, atol=1e-9)
    assert rouge_l(predictions, references) == pytest.approx(expected["rouge"][0], rel=0, abs=1e-9)
    np.testing.assert_allclose(rouge_l_scores(predictions, references), expected["rouge"][1], rtol=0, atol=1e-9)
    if "cider" in expected:
        assert cider(predictions, references) == pytest.approx(expected["cider"][0], rel=0, abs=1e-9)
        np.testing.assert_allclose(cider_scores(ngrams), expected["cider"][1], rtol=0, atol=1e-9)


def test_equal_to_pycocoevalcap_on_2000_real_pairs(real_pairs):
    assert len(real_pairs[0]) == 2000
    assert_equal_to_coco(*real_pairs)


def test_equal_to_pycocoevalcap_on_the_edge_cases_alone(real_pairs):
    predictions, references = real_pairs
    assert_equal_to_coco(predictions[:12], references[:12])
    for index in range(12):
        assert_equal_to_coco(predictions[index : index + 1], references[index : index + 1])


@settings(max_examples=150, deadline=None)
@given(PAIRS)
def test_equal_to_pycocoevalcap_on_small_random_sets(pairs):
    assert_equal_to_coco([prediction for prediction, _ in pairs], [references for _, references in pairs])


def test_words_only_in_predictions_and_no_words_at_all():
    assert cider(["no effusion"], [""]) == 0.0
    assert cider(["", ""], ["", " "]) == 0.0
    assert corpus_bleu(["no effusion"], [""])[3] < 1e-3
    assert rouge_l([""], [""]) == 1.0  # two empty texts are one equal empty word, as in the original


@settings(max_examples=150, deadline=None)
@given(st.lists(st.integers(0, 4), max_size=70), st.lists(st.integers(0, 4), max_size=70))
def test_longest_common_subsequence_is_the_dynamic_programme(first, second):
    table = np.zeros((len(first) + 1, len(second) + 1), dtype=int)
    for i, one in enumerate(first, start=1):
        for j, other in enumerate(second, start=1):
            table[i, j] = table[i - 1, j - 1] + 1 if one == other else max(table[i - 1, j], table[i, j - 1])
    words = [[str(value) for value in values] for values in (first, second)]
    assert longest_common_subsequence(*words) == table[-1, -1]


@pytest.mark.parametrize("metric", [corpus_bleu, rouge_l, cider])
@pytest.mark.parametrize(
    ("predictions", "references", "error", "words"),
    [
        (["a"], ["a", "b"], ValueError, "1 predictions but 2 references"),
        ([], [], ValueError, "no predictions"),
        (["a"], [[]], ValueError, "prediction 0 has no reference"),
        (["a", None], ["a", "b"], TypeError, "prediction 1 is NoneType"),
        (["a"], [["a", 3]], TypeError, "reference 0"),
        ("abc", ["a", "b", "c"], TypeError, "predictions is one string"),
    ],
)
def test_bad_input_is_named(metric, predictions, references, error, words):
    with pytest.raises(error, match=words):
        metric(predictions, references)


def test_meteor_is_the_jars(real_pairs):
    if shutil.which("java") is None:
        pytest.skip("METEOR needs Java")
    pytest.importorskip("pycocoevalcap")
    from pycocoevalcap.meteor.meteor import Meteor

    predictions = real_pairs[0][:60]
    references = [[text.replace("\n", " ") for text in texts] for texts in real_pairs[1][:60]]
    scorer = Meteor()
    # The last two are one pair, once with the jar's marks in the texts; one process has to serve all.
    odd = (["no effusion is seen", "no|||effusion\nis\r\nseen"], [["no effusion seen"], ["no effusion\u2028seen"]])
    statistics = meteor_statistics(predictions + odd[0], references + odd[1])
    expected, single = scorer.compute_score(
        dict(enumerate(references)), {index: [text] for index, text in enumerate(predictions)}
    )
    assert meteor_from_totals(statistics[:60].sum(axis=0)) == pytest.approx(expected, rel=0, abs=1e-9)
    np.testing.assert_allclose(meteor_from_totals(statistics[:60]), single, rtol=0, atol=1e-9)
    np.testing.assert_array_equal(statistics[-2], statistics[-1])
    assert 0 < meteor_from_totals(statistics[-1]) < 1


def test_meteor_without_java_gives_the_reason(monkeypatch):
    monkeypatch.setenv("PATH", os.devnull)
    monkeypatch.delenv("JAVA_HOME", raising=False)
    with pytest.raises(MeteorUnavailableError, match=NEEDS_JAVA):
        meteor(["a"], ["a"])


def test_meteor_with_a_java_that_fails_gives_the_reason(monkeypatch, tmp_path):
    pytest.importorskip("pycocoevalcap")
    broken = tmp_path / "java"
    broken.write_text("#!/bin/sh\nexit 3\n")
    broken.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MeteorUnavailableError, match="exit code 3"):
        meteor(["a"], ["a"])
