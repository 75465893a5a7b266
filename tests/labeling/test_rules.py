"""The rules language, the checks of a rules file, and extending the packaged rules."""

import os

import pytest

from otdrg_hf.labeling import LABELS, STATES, label_reports
from otdrg_hf.labeling.phrases import PhraseTrie, expand_phrase
from otdrg_hf.labeling.rules import RULES_FILE, load_rules, read_rules

NESTED = {("no", "old", "rib"), ("no", "old", "bone"), ("no", "rib"), ("no", "bone")}
TRIGGER = "triggers: [{{name: a, state: {}, direction: {}, scope: {}, priority: 1, phrases: []}}]"


@pytest.mark.parametrize(
    "phrase, spellings",
    [
        ("heart size", {("heart", "size")}),
        ("(heart|cardiac silhouette) size", {("heart", "size"), ("cardiac", "silhouette", "size")}),
        ("pleural [fluid|air]", {("pleural",), ("pleural", "fluid"), ("pleural", "air")}),
        ("heart ~4 enlarged", {("heart", "~4", "enlarged")}),
        ("(no [old] (rib|bone)|intact)", {*NESTED, ("intact",)}),
        ("atelecta*", {("atelecta*",)}),
    ],
)
def test_phrases_spell_out(phrase, spellings):
    assert set(expand_phrase(phrase)) == spellings


@pytest.mark.parametrize("phrase", ["(open", "close)", "a|b", "~3 heart", "heart ~3", "[heart]", "Heart", "a & b", ""])
def test_phrases_that_cannot_be_read_are_named(phrase):
    with pytest.raises(ValueError, match="phrase"):
        expand_phrase(phrase)


LISTS = {"bone": ["rib", "clavic*", "vertebral body"], "side": ["left", "right <bone>"]}


def test_lists_stand_for_their_members():
    assert set(expand_phrase("<bone> lesion", LISTS)) == {("<bone>", "lesion"), ("vertebral", "body", "lesion")}
    assert set(expand_phrase("<side>", LISTS)) == {("<side>",), ("right", "<bone>"), ("right", "vertebral", "body")}
    trie = PhraseTrie(lists=LISTS)
    for spelling in expand_phrase("<bone> lesion", LISTS):
        trie.add(spelling, "lesion")
    for text, matches in (
        ("rib lesion", [(0, 2, 0, "lesion")]),
        ("clavicular lesion", [(0, 2, 0, "lesion")]),
        ("vertebral body lesion", [(0, 3, 0, "lesion")]),
        ("lung lesion", []),
    ):
        assert trie.find(text.split()) == matches
    assert {"rib", "lesion", "vertebral"} <= trie.words and "<bone>" not in trie.words


@pytest.mark.parametrize("lists", [{}, {"bone": ["<bone> x"]}])
def test_a_list_that_is_not_there_or_names_itself(lists):
    with pytest.raises(ValueError, match="there is no list 'bone'"):
        expand_phrase("<bone> lesion", lists)


@pytest.mark.parametrize(
    "gap, text, found",
    [
        ("~3", "calcified left upper nodule", True),
        ("~3'", "calcified left upper nodule", True),
        ("~3", "calcified aorta and nodule", True),
        ("~3'", "calcified aorta and nodule", False),
        ("~3", "calcified , nodule", False),
        ("~3,", "calcified , nodule", True),
        ("~1", "calcified left upper nodule", False),
    ],
)
def test_how_far_gaps_go(gap, text, found):
    trie = PhraseTrie()
    for spelling in expand_phrase(f"calcified {gap} nodule"):
        trie.add(spelling, "hit")
    assert bool(trie.find(text.split())) == found


def test_a_dash_is_a_mark_of_its_own():
    assert expand_phrase("- none ;") == [("-", "none", ";")]
    with pytest.raises(ValueError, match="cannot read"):
        expand_phrase("air-space")


def test_trie_finds_literals_stems_and_gaps():
    trie = PhraseTrie(gap_stops=["but"])
    for phrase in ("pleural effusion*", "heart ~2 enlarged", "heart"):
        for spelling in expand_phrase(phrase):
            trie.add(spelling, phrase)
    assert trie.find("small pleural effusions".split()) == [(1, 3, 0, "pleural effusion*")]
    assert (0, 4, 2, "heart ~2 enlarged") in trie.find("heart is mildly enlarged".split())
    assert trie.find("heart is but enlarged".split()) == [(0, 1, 0, "heart")]
    assert trie.find("heart a b c enlarged".split()) == [(0, 1, 0, "heart")]


def test_packaged_rules_are_valid_and_speak_of_every_label():
    assert set(read_rules(RULES_FILE)["labels"]) == set(LABELS)


@pytest.mark.parametrize(
    "text, message",
    [
        ("lables: {}", "top level.lables: unknown key"),
        ("labels: {Pneumonias: {}}", "labels.Pneumonias: unknown key"),
        ("labels: {Pneumonia: {positives: []}}", "labels.Pneumonia.positives: unknown key"),
        ("labels: {Pneumonia: {positive: pneumonia}}", "labels.Pneumonia.positive: must be a list"),
        ("labels: {Pneumonia: {positive: [no]}}", "labels.Pneumonia.positive: False is not a phrase; quote it"),
        ("labels: {Pneumonia: {positive: ['(a']}}", r"labels.Pneumonia.positive: phrase '\(a'"),
        ("triggers: [{name: a}]", r"triggers\[0\]: key 'state' is missing"),
        (TRIGGER.format("maybe", "both", "3"), r"triggers\[0\].state: must be one of"),
        (TRIGGER.format("ignore", "up", "3"), r"triggers\[0\].direction: must be one of"),
        (TRIGGER.format("ignore", "both", "far"), r"triggers\[0\].scope: must be a whole number"),
        ("endings: {sideways: []}", "endings.sideways: unknown key"),
        ("neutral: word", "neutral: must be a list"),
        ("lists: [a]", "lists: must be a mapping"),
        ("lists: {a: b}", "lists.a: must be a list of phrases"),
        ("neutral: [<nowhere> x]", "neutral: phrase '<nowhere> x': there is no list 'nowhere'"),
        ("short_forms: [pna]", "short_forms: must be a mapping"),
        ("short_forms: {pna: 1}", "short_forms: 'pna': 1 is not a word and what it stands for"),
        ("other: [hernia]", "other: must be a mapping"),
        ("again: {positives: []}", "again.positives: unknown key"),
        ("- a", "top level: must be a mapping"),
        ("labels:\n  Edema: [", "not readable as YAML in line 2"),
    ],
)
def test_a_bad_key_is_named(tmp_path, text, message):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=f"mine.yaml: {message}"):
        label_reports(["No effusion."], rules=path)


def test_a_rules_file_extends_the_packaged_rules(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("labels:\n  Pneumonia:\n    positive: [lobar fluff]\n")
    column = LABELS.index("Pneumonia")
    reports = ["Lobar fluff.", "No lobar fluff.", "Possible lobar fluff.", "No pneumonia."]
    states = [STATES[code] for code in label_reports(reports, rules=path)[:, column]]
    assert states == ["positive", "negative", "uncertain", "negative"]
    assert label_reports(["Lobar fluff."])[0, column] == 0


def test_short_forms_and_other_abnormalities_of_a_file(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(
        "short_forms: {lfl: lobar pneumonia}\n"
        "other: {positive: [fluffy heart]}\n"
        "english: [pneumonic]\n"
        "spelled: [fluffiness]\n"
        "labels: {Pneumonia: {positive: [fluffiness], unless: [lobar pneumonia of dogs],"
        " still: [bad lobar pneumonia]}}\n"
    )

    def read(*reports):
        return [
            {label: STATES[code] for label, code in zip(LABELS, row, strict=True) if code}
            for row in label_reports(reports, rules=path)
        ]

    assert read("No LFL.", "Flufiness.") == [
        {"Pneumonia": "negative", "No Finding": "positive"},
        {"Pneumonia": "positive"},
    ]
    assert read("Fluffy heart. No edema.", "No fluffy heart.") == [{"Edema": "negative"}, {"No Finding": "positive"}]
    assert read("Lobar pneumonia of dogs.", "Bad lobar pneumonia of dogs.") == [{}, {"Pneumonia": "positive"}]


def test_an_edited_rules_file_is_read_again(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("labels:\n  Fracture:\n    positive: [snap]\n")
    first = load_rules(path)
    path.write_text("labels:\n  Fracture:\n    positive: [crackle]\n")
    os.utime(path, ns=(1, 1))
    assert load_rules(path) is not first
    assert label_reports(["Crackle."], rules=path)[0, LABELS.index("Fracture")] == 1


def test_a_missing_rules_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="none.yaml"):
        label_reports(["No effusion."], rules=tmp_path / "none.yaml")
