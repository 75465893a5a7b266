"""Files of predictions to a table, JSON, CSV, a plot and the page of the worst cases."""

import csv
import json
import os
from html.parser import HTMLParser

import pytest

from otdrg_hf.evaluation.compare import check_output_paths, evaluate_files
from otdrg_hf.evaluation.worst_cases import worst_studies
from otdrg_hf.labeling import LABELS
from otdrg_hf.metrics import evaluate_reports

REFERENCES = {
    "s1": "There is cardiomegaly. Left pleural effusion. No pneumothorax.",
    "s2": "The lungs are clear. Heart size is normal.",
    "s3": "Right pneumothorax.",
    "s4": "The lungs are clear.",
}
GOOD = {**REFERENCES, "s3": "No pneumothorax."}
BAD = {
    "s1": "The lungs are clear.",
    "s2": "Large <b>pneumothorax</b> & edema.",
    "s3": "",
    "s4": "The lungs are clear.",
}


@pytest.fixture
def files(tmp_path):
    def write(name, texts, field):
        path = tmp_path / f"{name}.jsonl"
        path.write_text("".join(json.dumps({"id": key, field: text}) + "\n" for key, text in texts.items()))
        return path

    return write("good", GOOD, "generated_text"), write("bad", BAD, "prediction"), write("refs", REFERENCES, "report")


@pytest.fixture
def evaluation(files):
    good, bad, references = files
    return evaluate_files([good, bad], references, meteor=False, num_bootstrap=100)


def test_figures_are_those_of_evaluate_reports(evaluation):
    for name, texts in (("good", GOOD), ("bad", BAD)):
        expected = evaluate_reports(list(texts.values()), list(REFERENCES.values()), meteor=False, num_bootstrap=100)
        assert evaluation.cards[name].figures == expected
    test = evaluation.paired["good - bad"]["bleu_1"]
    assert test["difference"] == pytest.approx(
        evaluation.cards["good"].figures["bleu_1"] - evaluation.cards["bad"].figures["bleu_1"]
    )


def test_table_names_every_figure_and_what_was_not_computed(evaluation):
    text = evaluation.text()
    assert text.startswith("warning: bad.jsonl: empty prediction in line 3; scored as empty text\n")
    lines = text.splitlines()
    assert any(line.split()[:2] == ["bleu_4", f"{evaluation.cards['good'].figures['bleu_4']:.4f}"] for line in lines)
    assert sum("not computed: not asked for" in line for line in lines) == 1
    assert all(any(line.startswith(label) for line in lines) for label in LABELS)
    assert any(line.startswith("good - bad") for line in lines)
    assert max(map(len, lines)) < 140


def test_json_and_csv_hold_the_same_figures(evaluation, tmp_path):
    evaluation.write_json(tmp_path / "out.json")
    evaluation.write_csv(tmp_path / "out.csv")
    content = json.loads((tmp_path / "out.json").read_text())
    with open(tmp_path / "out.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    for system in ("good", "bad"):
        figures = content["systems"][system]["figures"]
        assert figures == evaluation.cards[system].figures
        for row in (row for row in rows if row["system"] == system and not row["label"]):
            value, low = figures[row["figure"]], figures[row["figure"] + "_low"]
            assert (row["value"], row["low"]) == tuple("" if v is None else str(v) for v in (value, low))
        assert sum(bool(row["label"]) for row in rows if row["system"] == system) == 28
        assert content["systems"][system]["record"]["section"] == "texts as given"
    assert {row["uncertain"] for row in rows if row["figure"] == "bleu_1"} == {""}
    mappings = [row["uncertain"] for row in rows if row["system"] == "bad" and row["label"] == "Edema"]
    assert mappings == ["not positive", "positive"]
    assert content["warnings"] == evaluation.studies.warnings
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.startswith(".")) == []


def test_one_system_without_bootstrap(files, tmp_path):
    evaluation = evaluate_files([files[0]], files[2], meteor=False, num_bootstrap=0, protocol="r2gen-iu")
    assert evaluation.paired == {}
    assert "vocabulary: not given" in evaluation.text() and "[" not in evaluation.text()
    evaluation.write_csv(tmp_path / "out.csv")


class Page(HTMLParser):
    """Open tags must close in order; collects text, marks, label classes and anything that would be fetched."""

    def __init__(self):
        super().__init__()
        self.stack, self.words, self.marks, self.items, self.fetched = [], [], [], [], []

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.fetched += [value for name, value in attrs.items() if name in ("src", "href")]
        if tag != "meta":
            self.stack.append((tag, attrs.get("class")))

    def handle_endtag(self, tag):
        assert self.stack.pop()[0] == tag

    def handle_data(self, data):
        self.words.append(data)
        for place in self.stack[-1:]:
            if place[0] == "mark":
                self.marks.append((place[1], data))
            if place[0] == "li":
                self.items.append((place[1], data))


def test_page_shows_the_worst_cases_with_wrong_labels_marked(evaluation, tmp_path):
    evaluation.write_html(tmp_path / "out.html")
    page = Page()
    page.feed((tmp_path / "out.html").read_text(encoding="utf-8"))
    page.close()
    assert page.stack == [] and page.fetched == []
    text = "".join(page.words)
    assert "Large <b>pneumothorax</b> & edema." in text
    assert [key for key in REFERENCES if f"\n{key}\n" in text] == ["s1", "s2", "s3"]  # s4 has no wrong label
    assert ("hallucinated", "edema") in page.marks
    assert ("omitted", "cardiomegaly") in page.marks
    assert ("hallucinated", "Edema: positive") in page.items
    assert ("omitted", "Cardiomegaly: blank") in page.items
    assert (None, "Cardiomegaly: positive") in page.items


def test_worst_comes_first_and_the_limit_holds(evaluation):
    findings = [index for index, label in enumerate(LABELS) if label != "No Finding"]
    errors = sum(
        ((card.prediction_labels == 1) != (card.reference_labels == 1))[:, findings].sum(axis=1)
        for card in evaluation.cards.values()
    )
    order = worst_studies(evaluation.cards, 10)
    assert sorted(order) == [0, 1, 2]
    assert [errors[index] for index in order] == sorted(errors[:3], reverse=True)
    assert worst_studies(evaluation.cards, 2) == order[:2]


@pytest.mark.parametrize("ending", ["png", "svg", "pdf"])
def test_plot(evaluation, tmp_path, ending):
    pytest.importorskip("matplotlib")
    evaluation.write_plot(tmp_path / f"out.{ending}")
    start = {"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF"}[ending]
    assert (tmp_path / f"out.{ending}").read_bytes().startswith(start)


def test_bad_outputs_are_named_and_leave_nothing(evaluation, tmp_path):
    with pytest.raises(ValueError, match=r"cannot draw a bmp file"):
        evaluation.write_plot(tmp_path / "out.bmp")
    with pytest.raises(FileNotFoundError, match=r"the folder for out\.json does not exist"):
        evaluation.write_json(tmp_path / "missing" / "out.json")
    with pytest.raises(FileNotFoundError, match=r"the folder for x\.csv"):
        check_output_paths(None, tmp_path / "a.json", tmp_path / "no" / "x.csv")
    with pytest.raises(ValueError, match="end the name of the plot in"):
        check_output_paths(plot=tmp_path / "plot")
    check_output_paths(tmp_path / "a.json", plot=tmp_path / "plot.PNG")
    assert not list(tmp_path.glob(".out*")) and not list(tmp_path.glob("out*"))


def test_a_failed_write_keeps_the_old_file(evaluation, tmp_path, monkeypatch):
    target = tmp_path / "out.html"
    target.write_text("old")
    monkeypatch.setattr("otdrg_hf.evaluation.compare.worst_cases_page", lambda *args: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        evaluation.write_html(target)
    assert target.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_a_finished_file_takes_the_place_of_the_old_one(evaluation, tmp_path):
    target, link = tmp_path / "out.json", tmp_path / "link.json"
    target.write_text("old")
    os.link(target, link)
    evaluation.write_json(target)
    assert link.read_text() == "old"  # it was replaced, never written into
    assert json.loads(target.read_text())["warnings"]


def test_each_text_is_labelled_once_for_all_systems(files):
    from otdrg_hf.labeling import label_reports

    seen = []

    def counting(reports):
        seen.extend(reports)
        return label_reports(reports)

    evaluation = evaluate_files(list(files[:2]), files[2], labeler=counting, meteor=False, num_bootstrap=0)
    assert len(seen) == len(set(seen)) == len({*REFERENCES.values(), *GOOD.values(), *BAD.values()})
    assert evaluation.cards["good"].record["clinical"]["labeler"] == "counting"
