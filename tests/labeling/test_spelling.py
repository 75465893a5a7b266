"""Short forms, British spelling and typing errors, and the English words that are none."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from otdrg_hf.labeling import LABELS, label_reports
from otdrg_hf.labeling.rules import ENGLISH_FILE, load_rules
from otdrg_hf.labeling.spelling import Spelling, is_one_edit, nearest_term

LETTERS = st.characters(min_codepoint=ord("a"), max_codepoint=ord("e"))
WORDS = st.text(LETTERS, min_size=1, max_size=7)


@st.composite
def edited(draw):
    """A word, one edit of it, and whether that is another word."""
    word = draw(WORDS)
    at, letter = draw(st.integers(0, len(word) - 1)), draw(LETTERS)
    other = draw(
        st.sampled_from(
            (
                word[:at] + word[at + 1 :],
                word[:at] + letter + word[at:],
                word[:at] + letter + word[at + 1 :],
                word[:at] + word[at : at + 2][::-1] + word[at + 2 :],
            )
        )
    )
    return word, other


def distance(a, b):
    """The optimal string alignment distance, by its recurrence."""
    table = {(i, j): max(i, j) for i in range(len(a) + 1) for j in range(len(b) + 1) if not (i and j)}
    for i in range(1, len(a) + 1):
        for j in range(1, len(b) + 1):
            steps = [table[i - 1, j] + 1, table[i, j - 1] + 1, table[i - 1, j - 1] + (a[i - 1] != b[j - 1])]
            if i > 1 and j > 1 and a[i - 1] == b[j - 2] and a[i - 2] == b[j - 1]:
                steps.append(table[i - 2, j - 2] + 1)
            table[i, j] = min(steps)
    return table[len(a), len(b)]


@settings(max_examples=300, deadline=None)
@given(edited())
def test_an_edit_is_one(pair):
    word, other = pair
    assert is_one_edit(word, other) == (word != other)


@settings(max_examples=500, deadline=None)
@given(WORDS, WORDS)
def test_one_edit_is_a_distance_of_one(a, b):
    assert is_one_edit(a, b) == (distance(a, b) == 1)


def small_spelling(english=()):
    terms = ("effusion", "lesion", "edema", "catheter")
    return Spelling(
        {"pna": ("pneumonia",), "c/w": ("consistent", "with")}, {"heart", *terms}.__contains__, terms, english
    )


@pytest.mark.parametrize(
    "written, words",
    [
        ("effusion", ("effusion",)),
        ("effsuion", ("effusion",)),
        ("effusin", ("effusion",)),
        ("effussion", ("effusion",)),
        ("effuzion", ("effusion",)),
        ("efuzion", ("efuzion",)),
        ("lesson", ("lesion",)),
        ("edena", ("edena",)),
        ("heart", ("heart",)),
        ("pna", ("pneumonia",)),
        ("c/w", ("consistent", "with")),
        ("xxxx", ()),
        ("___", ()),
        ("—", ("-",)),
        ("t12", ("t12",)),
    ],
)
def test_what_a_written_word_stands_for(written, words):
    assert small_spelling()[written] == words


def test_english_words_are_what_they_are():
    assert small_spelling(english={"lesson"})["lesson"] == ("lesson",)


def test_the_english_words_of_the_package_are_all_needed():
    rules = load_rules()
    english = ENGLISH_FILE.read_text(encoding="utf-8").split()
    assert english == sorted(set(english))
    assert all(rules.spelling.corrected(word) == word and not rules.spelling.knows(word) for word in english)
    open_to_errors = Spelling({}, rules.spelling.knows, _terms(rules), ())
    assert all(open_to_errors.corrected(word) != word for word in english)


def _terms(rules):
    return {term for terms in rules.spelling._terms.values() for term in terms}


@pytest.mark.parametrize(
    "text, label",
    [
        ("Module in the left lung.", "Lung Lesion"),
        ("The lesson of this film.", "Lung Lesion"),
        ("Injection into the vein.", "Pneumonia"),
        ("Starring role.", "Lung Opacity"),
        ("The facture of the report.", "Lung Opacity"),
        ("Dr. Massey was informed.", "Lung Lesion"),
        ("Diffusion weighted images.", "Pleural Effusion"),
        ("Hemithorax.", "Pleural Effusion"),
    ],
)
def test_other_words_are_no_findings(text, label):
    assert label_reports([text])[0, LABELS.index(label)] == 0


def test_the_nearest_term_is_the_first_one_edit_away():
    assert nearest_term("findngs", ("finding", "findings")) == "findings"
    assert nearest_term("fidings", ("findings", "fittings")) == "findings"
    assert nearest_term("findings", ("findings", "indings")) == "indings"
    assert nearest_term("lungs", ("findings",)) == "lungs"
