"""What ReXrank's files hold, and what is wrong in an answer to one."""

import pytest

from otdrg_hf.evaluation.rexrank.leaderboard_file import (
    Context,
    LeaderboardFile,
    check_predictions,
    parse_context,
    read_inputs,
)


@pytest.mark.parametrize(
    "context, expected",
    [
        (
            "Age:50-60.Gender:M.Indication: Chest pain. Comparison: None.",
            Context("Chest pain.", "None.", "50-60", "male"),
        ),
        ("Age:61.0.Gender:F.Indication:\nFever Comparison: nan", Context("Fever", "", "61", "female")),
        ("Age:None.Gender:None.Indication: Fall Comparison:None", Context("Fall", "")),
        ("Age:nan.Gender:U.Indication: nan Comparison: nan", Context()),
        ("Age:>=89.Gender:F.Comparison: Two days ago.", Context("", "Two days ago.", ">=89", "female")),
        ("<context>Indication: Cough.Comparison: ___.</context>", Context("Cough.", "___.")),
        (" Comparison: XXXX", Context("", "XXXX")),
        ("Age:50-60.Gender:F.", Context("", "", "50-60", "female")),
        ("", Context()),
        (float("nan"), Context()),
        (None, Context()),
    ],
)
def test_a_context_is_read_into_its_parts(context, expected):
    assert parse_context(context) == expected


@pytest.mark.parametrize(
    "context, text",
    [
        (Context("Cough.", age="50-60", sex="male"), "50-60-year-old male. Cough."),
        (Context("Cough.", sex="female"), "Female. Cough."),
        (Context("61 year old with cough.", age="61", sex="female"), "61 year old with cough."),
        (Context("___F with cough.", age="61", sex="female"), "61-year-old female. ___F with cough."),
        (Context("M with cough.", age="61", sex="male"), "M with cough."),
        (Context("", age="61"), "61-year-old."),
        (Context("Cough."), "Cough."),
        (Context(), ""),
    ],
)
def test_age_and_sex_are_put_in_words_where_the_indication_has_none(context, text):
    assert context.described_indication() == text


def test_frontal_images_come_first():
    entry = {"image_path": ["/p10/a.jpg", "b.jpg"], "frontal_lateral": ["lateral", "postero-anterior"]}
    inputs = read_inputs(entry, "root")
    assert inputs["images"] == ["root/b.jpg", "root/p10/a.jpg"] and inputs["views"] == ["frontal", "lateral"]


def test_an_answer_is_the_same_studies_with_a_text_each():
    file = LeaderboardFile("input.json", {"a": {"x": float("nan")}, "b": {"x": 2}}, [])
    good = {"a": {"x": float("nan"), "model_prediction": "Clear."}, "b": {"x": 2, "model_prediction": "Clear."}}
    assert check_predictions(good, file) == []
    for wrong, message in (
        ({"a": good["a"]}, "1 studies of input.json are missing, the first is 'b'"),
        ({**good, "b": {"x": 2}}, "without a text as model_prediction: 1 of 2 studies, the first is 'b'"),
        ({**good, "b": {**good["b"], "model_prediction": None}}, "without a text as model_prediction"),
        ({**good, "a": {**good["a"], "x": 1}}, "whose other fields have changed: 1 of 2 studies, the first is 'a'"),
    ):
        with pytest.raises(ValueError, match=message):
            check_predictions(wrong, file)
