"""What is wrong in a file of reports is named with its line; what is right comes back as it was."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from otdrg_hf.data.mimic_sections import read_sections
from otdrg_hf.evaluation.report_files import ReportFileError, read_studies, read_vocabulary_reports


def write(path, *rows):
    path.write_bytes(b"".join(row if isinstance(row, bytes) else json.dumps(row).encode() + b"\n" for row in rows))
    return path


def good(number):
    return {"id": f"s{number}", "generated_text": f"text {number}", "reference": f"reference {number}"}


def test_one_broken_line_among_thousands_is_named(tmp_path):
    rows = [good(number) for number in range(5000)]
    rows[3210] = b'{"id": "s3210", "generated_text": "cut o\n'
    with pytest.raises(ReportFileError, match=r"^predictions\.jsonl line 3211: not JSON \(.* at column \d+\)$"):
        read_studies([write(tmp_path / "predictions.jsonl", *rows)])


@pytest.mark.parametrize(
    ("row", "words"),
    [
        (b'{"id": "s1", "generated_text": "caf\xe9", "reference": "a"}\n', r"not UTF-8 \(byte 0xe9 at column 36\)"),
        (b"[1, 2]\n", "a JSON list where an object"),
        (b"[" * 100_000 + b"\n", "not JSON"),
        (b"\x00\n", "not JSON"),
        ({"generated_text": "a", "reference": "a"}, "no 'id'"),
        ({"id": None, "generated_text": "a", "reference": "a"}, "no 'id'"),
        ({"id": True, "generated_text": "a", "reference": "a"}, "no 'id'"),
        ({"id": "s0", "generated_text": "a", "reference": "a"}, "id 's0' was given before, in line 1"),
        ({"id": "s1", "text": "a", "reference": "a"}, "no 'generated_text' or 'prediction'"),
        ({"id": "s1", "prediction": 3, "reference": "a"}, "'prediction' is not a string"),
        ({"id": "s1", "prediction": "a"}, "no 'reference' or 'references' or 'report'"),
        ({"id": "s1", "prediction": "a", "reference": []}, "'reference' is neither"),
        ({"id": "s1", "prediction": "a", "reference": ["a", None]}, "'reference' is neither"),
        ({"id": "s1", "prediction": "a\ud800", "reference": "a"}, "the text holds half of a surrogate pair"),
        ({"id": "\ud800", "prediction": "a", "reference": "a"}, "the text holds half of a surrogate pair"),
    ],
)
def test_bad_lines_are_named(tmp_path, row, words):
    with pytest.raises(ReportFileError, match=rf"^p\.jsonl line 2: {words}"):
        read_studies([write(tmp_path / "p.jsonl", good(0), row, good(2))])


def test_all_problems_are_counted_and_the_first_are_shown(tmp_path):
    path = write(tmp_path / "p.jsonl", *[b"nonsense\n"] * 12)
    with pytest.raises(ReportFileError) as caught:
        read_studies([path])
    assert str(caught.value).splitlines()[4:] == [
        "p.jsonl line 5: not JSON (Expecting value at column 1)",
        "and 7 more problems",
    ]


def test_files_without_reports(tmp_path):
    with pytest.raises(ReportFileError, match=r"p\.jsonl: the file holds no reports"):
        read_studies([write(tmp_path / "p.jsonl", b"\n")])
    utf16 = json.dumps(good(0)).encode("utf-16")
    with pytest.raises(ReportFileError, match=r"p\.jsonl: the file is UTF-16"):
        read_studies([write(tmp_path / "p.jsonl", utf16)])
    with pytest.raises(FileNotFoundError):
        read_studies([tmp_path / "missing.jsonl"])
    with pytest.raises(ValueError, match="no file of predictions"):
        read_studies([])


def test_mismatched_ids_are_named_on_both_sides(tmp_path):
    predictions = write(tmp_path / "p.jsonl", {"id": 1, "prediction": "a"}, {"id": "2", "prediction": "b"})
    references = write(tmp_path / "r.jsonl", {"id": "1", "reference": "a"}, {"id": 3, "reference": "c"})
    with pytest.raises(ReportFileError) as caught:
        read_studies([predictions], references)
    assert str(caught.value) == "p.jsonl line 2: id '2' is not in r.jsonl\nr.jsonl line 2: id '3' is not in p.jsonl"


def test_references_are_joined_by_id_and_systems_may_differ_in_order(tmp_path):
    first = write(tmp_path / "a.jsonl", *[{"id": key, "prediction": f"a{key}"} for key in "xyz"])
    second = write(tmp_path / "b.jsonl", *[{"id": key, "generated_text": f"b{key}"} for key in "zxy"])
    references = write(tmp_path / "r.jsonl", *[{"id": key, "references": [f"r{key}", "other"]} for key in "yzx"])
    studies = read_studies([first, second], references)
    assert studies.ids == ["x", "y", "z"]
    assert studies.predictions == {"a": ["ax", "ay", "az"], "b": ["bx", "by", "bz"]}
    assert studies.references == [["rx", "other"], ["ry", "other"], ["rz", "other"]]
    assert studies.warnings == []


def test_systems_must_share_ids_and_references(tmp_path):
    first = write(tmp_path / "a.jsonl", good(0), good(1))
    with pytest.raises(ReportFileError, match=r"b\.jsonl line 2: the reference of id 's1' differs .* a\.jsonl"):
        read_studies([first, write(tmp_path / "b.jsonl", good(0), {**good(1), "reference": "changed"})])
    with pytest.raises(ReportFileError, match=r"a\.jsonl line 2: id 's1' is not in c\.jsonl"):
        read_studies([first, write(tmp_path / "c.jsonl", good(0))])


def test_empty_texts_are_warned_of_with_lines(tmp_path):
    rows = [good(0), {**good(1), "generated_text": " "}, {**good(2), "reference": ["", "a"]}, good(3)]
    studies = read_studies([write(tmp_path / "p.jsonl", *rows)])
    assert studies.warnings == [
        "p.jsonl: empty prediction in line 2; scored as empty text",
        "p.jsonl: empty reference in line 3; scored as empty text",
    ]
    assert studies.predictions["p"][1] == " "


def test_a_byte_order_mark_and_blank_lines_are_forgiven(tmp_path):
    path = write(tmp_path / "p.jsonl", b"\xef\xbb\xbf", good(0), b"\n", b"  \r\n", good(1))
    assert read_studies([path]).ids == ["s0", "s1"]


def test_systems_of_the_same_name_are_told_apart(tmp_path):
    (tmp_path / "other").mkdir()
    paths = [write(folder / "p.jsonl", good(0)) for folder in (tmp_path, tmp_path / "other")]
    assert list(read_studies(paths).predictions) == [f"{tmp_path.name}/p", "other/p"]


def test_sections(tmp_path):
    text = "INDICATION: Cough. FINDINGS: Clear lungs. IMPRESSION: Normal."
    fields = {"findings": "No effusion.", "impression": "Normal chest.", "report": "unused"}
    rows = [
        {"id": 0, "prediction": text, "report": text},
        {"id": 1, "prediction": "No header.", **fields},
    ]
    path = write(tmp_path / "p.jsonl", *rows)
    for section, prediction, references in (
        ("findings", "Clear lungs.", ["Clear lungs.", "No effusion."]),
        ("impression", "Normal.", ["Normal.", "Normal chest."]),
        ("report", "Clear lungs. Normal.", ["Clear lungs. Normal.", "No effusion. Normal chest."]),
    ):
        studies = read_studies([path], section=section)
        assert studies.predictions["p"] == [prediction, "No header."]
        assert studies.references == [[text] for text in references]
    with pytest.raises(ReportFileError, match="line 1: no field or header for 'impression'"):
        read_studies([write(tmp_path / "p.jsonl", good(0))], section="impression")
    with pytest.raises(ValueError, match="unknown section 'summary'"):
        read_studies([path], section="summary")


@pytest.mark.parametrize("header", ["FINDINGS", "FINDINGS AND IMPRESSION", "FINDINGS/IMPRESSION", "CONCLUSION"])
def test_a_header_means_the_section_that_preparing_takes_it_for(tmp_path, header):
    text = f"\n {header}: Clear lungs.\n"
    prepared = read_sections(text)
    section = "impression" if prepared.impression else "findings"
    assert getattr(prepared, section) == "Clear lungs."
    path = write(tmp_path / "p.jsonl", {"id": 0, "prediction": "Clear.", "report": text})
    for asked in (section, "report"):
        assert read_studies([path], section=asked).references == [["Clear lungs."]]
    other = {"findings": "impression", "impression": "findings"}[section]
    with pytest.raises(ReportFileError, match=f"no field or header for '{other}'"):
        read_studies([path], section=other)


def test_vocabulary_reports(tmp_path):
    annotation = tmp_path / "annotation.json"
    annotation.write_text(json.dumps({"train": [{"id": "a", "report": "one"}], "test": [{"id": "b", "report": "two"}]}))
    assert read_vocabulary_reports(annotation) == ["one"]
    assert read_vocabulary_reports(write(tmp_path / "train.jsonl", {"id": "a", "report": "three"})) == ["three"]
    rows = [{"id": "a", "report": "four", "split": "Train "}, {"id": "b", "report": "five", "split": "test"}]
    assert read_vocabulary_reports(write(tmp_path / "splits.jsonl", *rows)) == ["four"]


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("annotation.json", "{}", "annotation.json: the file holds no reports"),
        ("annotation.json", '{"train": [}', "annotation.json: not JSON"),
        (
            "annotation.json",
            '{"train": [], "test": []}',
            "annotation.json: none of its reports is of the split 'train'",
        ),
        ("annotation.json", '{"train": [{"id": 1}]}', "annotation.json train entry 1: no 'report' that is text"),
        ("annotation.json", '{"train": [], "tset": []}', "annotation.json has unknown keys"),
        (
            "r.jsonl",
            '{"id": 1, "report": "a", "split": "test"}',
            "r.jsonl: none of its reports is of the split 'train'",
        ),
        ("r.jsonl", '{"id": 1, "report": "a", "split": "tset"}', "r.jsonl line 1: unknown split 'tset'"),
    ],
)
def test_files_without_a_vocabulary(tmp_path, name, content, message):
    (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=message) as caught:
        read_vocabulary_reports(tmp_path / name)
    assert "\n" not in str(caught.value)


TEXT = st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=30)


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(TEXT.filter(bool), st.tuples(TEXT, st.lists(TEXT, min_size=1, max_size=2)), min_size=1))
def test_any_text_comes_back_as_it_was(tmp_path_factory, rows):
    path = tmp_path_factory.mktemp("any") / "p.jsonl"
    lines = [{"id": key, "prediction": text, "reference": texts} for key, (text, texts) in rows.items()]
    path.write_text("\n".join(json.dumps(line, ensure_ascii=False) for line in lines), encoding="utf-8", newline="")
    studies = read_studies([path])
    assert studies.ids == list(rows)
    assert list(zip(studies.predictions["p"], studies.references, strict=True)) == list(rows.values())


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=80))
def test_any_bytes_are_read_or_refused_by_line(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("bytes") / "p.jsonl"
    path.write_bytes(content)
    try:
        read_studies([path])
    except ReportFileError as error:
        assert "p.jsonl" in str(error)


def test_a_csv_of_another_system_joins_by_study_id(tmp_path):
    ours = write(tmp_path / "ours.jsonl", *[{**good(number), "id": f"s5000000{number}"} for number in range(3)])
    table = tmp_path / "theirs.csv"
    table.write_text(
        'study_id,findings,impression\n50000002,"Clear ""lungs"",\nno effusion.",Normal.\n50000000.0,,\n59999999,x,y\n'
    )
    studies = read_studies([ours], published=[table])
    assert studies.ids == ["s50000000", "s50000002"] and studies.references == [["reference 0"], ["reference 2"]]
    assert studies.predictions == {"ours": ["text 0", "text 2"], "theirs": ["", 'Clear "lungs",\nno effusion. Normal.']}
    assert studies.warnings == [
        "theirs.csv: lacks 1 of 3 studies, which are left out of every system; the first is id 's50000001'",
        "theirs.csv: 1 of its reports are of other studies; the first is id '59999999'",
        "theirs.csv: empty prediction in line 4; scored as empty text",
    ]
    assert studies.left_out == {"theirs.csv: not in it": ["s50000001"], "theirs.csv: of other studies": ["59999999"]}
    only = write(tmp_path / "r.jsonl", *[{"id": f"s5000000{n}", "findings": f"reference {n}"} for n in range(3)])
    of_findings = read_studies([], only, section="findings", published=[table])
    assert of_findings.predictions["theirs"] == ["", 'Clear "lungs",\nno effusion.']


@pytest.mark.parametrize(
    "content",
    [
        [{"id": "s1", "generated_report": "b"}, {"id": "s0", "generated_report": "a"}],
        {"s0": "a", "s1": "b"},
        {"s0": {"model_prediction": "a", "report": "true"}, "s1": {"model_prediction": "b", "report": "true"}},
    ],
)
def test_json_of_another_system_in_the_forms_in_use(tmp_path, content):
    (tmp_path / "theirs.json").write_text(json.dumps(content, indent=1))
    studies = read_studies([write(tmp_path / "p.jsonl", good(0), good(1))], published=[tmp_path / "theirs.json"])
    assert studies.predictions["theirs"] == ["a", "b"] and studies.warnings == [] and studies.left_out == {}


def test_the_leaderboards_file_is_references_of_the_studies_that_have_findings(tmp_path):
    entries = {
        "a": {"section_findings": "Clear.", "section_impression": "Normal."},
        "b": {"section_findings": float("nan"), "section_impression": "Normal."},
        "c": {"section_findings": "", "section_impression": "Normal."},
    }
    (tmp_path / "board.json").write_text(json.dumps(entries))
    predictions = write(tmp_path / "p.jsonl", *[{"id": key, "prediction": key} for key in "abc"])
    studies = read_studies([predictions], tmp_path / "board.json", section="findings")
    assert (studies.ids, studies.references, studies.predictions) == (["a"], [["Clear."]], {"p": ["a"]})
    assert studies.warnings == ["board.json: 2 studies have no findings, left out of every system; the first is id 'b'"]
    assert studies.left_out == {"board.json: no findings": ["b", "c"]}
    whole = read_studies([predictions], tmp_path / "board.json", section="report")
    assert whole.references == [["Clear. Normal."], ["Normal."], ["Normal."]]


def test_references_without_a_header_among_others_are_left_out_and_listed(tmp_path):
    rows = [good(number) for number in range(4)]
    rows[1]["reference"] = rows[3]["reference"] = "FINDINGS: Clear."
    studies = read_studies([write(tmp_path / "p.jsonl", *rows)], section="findings")
    assert studies.ids == ["s1", "s3"] and studies.left_out == {"p.jsonl: no findings": ["s0", "s2"]}
    rows[1]["reference"] = rows[3]["reference"] = None
    studies = read_studies([write(tmp_path / "p.jsonl", *rows)])
    assert studies.ids == ["s0", "s2"] and "2 studies have no reference" in studies.warnings[0]
    with pytest.raises(ReportFileError, match=r"^p\.jsonl: none of its 1 studies has a reference$"):
        read_studies([write(tmp_path / "p.jsonl", rows[1])])


def test_what_is_wrong_many_times_is_one_line_with_the_count_and_the_first_id(tmp_path):
    first = write(tmp_path / "a.jsonl", *map(good, range(9)))
    with pytest.raises(ReportFileError) as caught:
        read_studies([first], write(tmp_path / "r.jsonl", *map(good, (2, 3, 4, 20))))
    assert str(caught.value).splitlines() == [
        "a.jsonl line 1: id 's0' is not in r.jsonl (6 of its 9 ids are not)",
        "r.jsonl line 4: id 's20' is not in a.jsonl",
    ]
    with pytest.raises(ReportFileError) as caught:
        read_studies([write(tmp_path / "b.jsonl", *map(good, [*range(9)] * 2))])
    assert str(caught.value) == "b.jsonl line 10: id 's0' was given before, in line 1 (9 lines in all repeat an id)"
    empty = [{**good(number), "generated_text": ""} for number in range(3)]
    assert read_studies([write(tmp_path / "c.jsonl", *empty)]).warnings == [
        "c.jsonl: 3 empty predictions, the first is id 's0' in line 1; scored as empty texts"
    ]
    nan = [{**good(0), "generated_text": float("nan")}, good(1)]
    assert read_studies([write(tmp_path / "d.jsonl", *nan)]).predictions["d"] == ["", "text 1"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "t.csv",
            "study_id,report\n9,x\n",
            "t.csv: none of its 1 ids is among the 1 studies; its first is '9', that of",
        ),
        ("t.csv", "study_id,report\n1,x,y\n", "t.csv line 2: not as many cells as the header"),
        ("t.csv", 'study_id,report\n1,"x\n', "t.csv line 1: not CSV (unexpected end of data)"),
        ("t.csv", "name,report\n1,x\n", "t.csv line 2: no 'id'"),
        ("t.csv", "study_id,words\n1,x\n", "t.csv line 2: no 'generated_text' or 'prediction'"),
        ("t.json", "{", "t.json: not JSON"),
        ("t.json", "[1]", "t.json: neither a list of objects with an id, nor an object from ids to reports"),
        ("t.json", '{"train": [], "val": []}', "t.json has no split 'test'; it has train, validation"),
    ],
)
def test_tables_that_cannot_be_used_are_named(tmp_path, name, content, message):
    (tmp_path / name).write_text(content)
    ours = write(tmp_path / "p.jsonl", {**good(0), "id": 1})
    with pytest.raises(ReportFileError) as caught:
        read_studies([ours], published=[tmp_path / name])
    assert message in str(caught.value)


@pytest.mark.parametrize("missing", ["", "NaN", "nan"])
def test_a_missing_reference_of_a_table_is_left_out_as_that_of_json_is(tmp_path, missing):
    table, lines = tmp_path / "a.csv", tmp_path / "b.jsonl"
    table.write_text(f"id,generated_text,reference\n1,Clear lungs.,Clear.\n2,Effusion.,{missing}\n")
    rows = [{"id": "1", "generated_text": "Clear lungs.", "reference": "Clear."}]
    rows += [{"id": "2", "generated_text": "Effusion.", "reference": None}]
    lines.write_text("".join(json.dumps(row) + "\n" for row in rows))
    of_table, of_lines = read_studies([table]), read_studies([lines])
    assert of_table.ids == of_lines.ids == ["1"] and of_table.references == of_lines.references
    assert list(of_table.left_out.values()) == list(of_lines.left_out.values()) == [["2"]]
