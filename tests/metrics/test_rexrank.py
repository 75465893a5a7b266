"""ReXrank's BLEU-2: equal to fast_bleu's, stored and, where it can be installed, run."""

import random

import pytest

from otdrg_hf.metrics.rexrank import rexrank_bleu_2, rexrank_words
from tests.support.other_environment import python_with, run_json

# What fast_bleu 0.0.90 gives on the words of these texts, with its default smoothing and without (smoothing_func=0).
STORED = [
    (
        "The heart is enlarged. No effusion.",
        "The heart is mildly enlarged. No pleural effusion.",
        0.6582067953986983,
        None,
    ),
    ("Lungs are clear.", "The lungs are clear.", 0.7788007830714049, None),
    ("clear lungs", "lungs are clear", 0.19180183554164495, 0.0),
    ("effusion", "No pleural effusion.", 0.01574405340649719, 0.0),
    ("", "No effusion.", 0.0, None),
    ("Pneumonia.", "No effusion", 0.0, None),
    ("No acute disease.  No effusion.", "no acute disease. no effusion.", 1.0, None),
    ("The heart is normal. " * 3, "The heart is normal.", 0.3086066999241838, None),
    ("No effusion.\nNo pneumothorax.", "No effusion. No pneumothorax.", 0.5178107940302672, None),
]


@pytest.mark.parametrize("prediction, reference, smoothed, plain", STORED)
def test_stored_scores_of_fast_bleu(prediction, reference, smoothed, plain):
    assert rexrank_bleu_2([prediction], [reference]) == pytest.approx([smoothed], abs=1e-12)
    plain = smoothed if plain is None else plain
    assert rexrank_bleu_2([prediction], [reference], smoothed=False) == pytest.approx([plain], abs=1e-12)


def test_words_are_split_at_blanks_with_full_stops_apart():
    assert rexrank_words("Heart 1.5x, no\nedema.") == ["heart", "1", ".5x,", "no\nedema", "."]


def test_as_many_of_each():
    with pytest.raises(ValueError, match="2 predictions but 1 references"):
        rexrank_bleu_2(["a", "b"], ["a"])


@pytest.mark.slow
def test_equal_to_fast_bleu_itself(tmp_path):
    """The package from the index; it needs a C++ compiler."""
    python = python_with({"fast_bleu": ["fast_bleu"]}, tmp_path / "environment")
    drawn = random.Random(0)

    def text() -> str:
        return "".join(drawn.choice(["a ", "b ", "c", ". ", "D ", "\n"]) for _ in range(drawn.randrange(12)))

    predictions, references = ([text() for _ in range(300)] for _ in range(2))
    code = """
from fast_bleu import BLEU
from otdrg_hf.metrics.rexrank import rexrank_words
scores = [[BLEU([rexrank_words(b)], {2: (0.5, 0.5)}, **options).get_score([rexrank_words(a)])[2][0]
           for a, b in zip(given["predictions"], given["references"])] for options in ({}, {"smoothing_func": 0})]
print(json.dumps(scores))
"""
    smoothed, plain = run_json(python, code, predictions=predictions, references=references)
    assert rexrank_bleu_2(predictions, references) == pytest.approx(smoothed, abs=1e-12)
    assert rexrank_bleu_2(predictions, references, smoothed=False) == pytest.approx(plain, abs=1e-12)
