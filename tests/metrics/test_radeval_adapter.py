"""Scores of RadEval: equal to its own output, with intervals, and one line where it or its weights are not there."""

import pytest

from otdrg_hf.metrics.radeval_adapter import OF_SETS, SCORES, check_radeval, radeval_figures, radeval_is_available
from tests.support.other_environment import python_with, run_json

PREDICTIONS = ["The heart is enlarged. No pneumothorax or effusion.", "The lungs are clear.", "", "Small effusion."]
REFERENCES = ["The heart is enlarged. No effusion.", "Lungs are clear.", "No acute disease.", "Large effusion."]
# Of radeval's dependencies those that BLEU and ROUGE import, and RadGraph until it looks for its weights.
PACKAGES = {
    "radeval": ["radeval>=2.2", "appdirs", "dotmap", "h5py", "jsonpickle"],
    "rouge_score": ["rouge_score", "absl-py"],
    "nltk": ["nltk", "defusedxml", "regex", "joblib", "click"],
    "six": ["six"],
    "rich": ["rich", "markdown-it-py", "mdurl", "pygments"],
}


@pytest.fixture(scope="module")
def radeval_python(tmp_path_factory):
    return python_with(PACKAGES, tmp_path_factory.mktemp("radeval"))


def test_unknown_scores_are_named_and_so_is_what_to_install(monkeypatch):
    with pytest.raises(ValueError, match="unknown RadEval score 'bleurt'; give any of rouge, bertscore"):
        radeval_figures(["a"], ["b"], scores=("bleurt",))
    # Its metrics that send reports to a service are not offered.
    with pytest.raises(ValueError, match="unknown RadEval score 'radfact_ct'"):
        check_radeval(("radfact_ct",))
    monkeypatch.setattr("otdrg_hf.metrics.radeval_adapter.radeval_is_available", lambda: False)
    with pytest.raises(ImportError, match=r"radgraph need RadEval: pip install RadEval \(2.2 or newer\)"):
        radeval_figures(["a"], ["b"], scores=("radgraph",))


@pytest.mark.skipif(radeval_is_available(), reason="radeval is installed here")
def test_radeval_is_looked_for_by_the_name_that_it_has_now():
    with pytest.raises(ImportError, match="need RadEval: pip install RadEval"):
        check_radeval(("rouge",))


@pytest.mark.slow
def test_figures_are_radevals_own(radeval_python):
    """The package itself, from the index, on the metrics that need no weights."""
    code = """
from radeval import RadEval
from otdrg_hf.metrics.radeval_adapter import radeval_figures, radeval_statistics
texts = {"refs": given["references"], "hyps": given["predictions"]}
of_set = RadEval(metrics=["bleu", "rouge"], show_progress=False)(**texts)
per_report = RadEval(metrics=["bleu", "rouge"], per_sample=True, show_progress=False)(**texts)
ours = radeval_figures(given["predictions"], given["references"], ["bleu", "rouge"], num_bootstrap=200)
columns = {name: radeval_statistics(given["predictions"], given["references"], name)[1].columns.T.tolist()
           for name in ("bleu", "rouge")}
print(json.dumps([of_set, per_report, ours, columns]))
"""
    given = {"predictions": PREDICTIONS, "references": REFERENCES}
    of_set, per_report, ours, columns = run_json(radeval_python, code, **given)
    assert set(of_set) == {"bleu", "rouge1", "rouge2", "rougeL"}
    for name, value in of_set.items():
        assert round(ours[f"radeval_{name}"], 4) == value, name
    assert columns == {"bleu": [per_report["bleu"]], "rouge": [per_report[f"rouge{kind}"] for kind in "12L"]}
    assert ours["radeval_bleu_per_report"] == pytest.approx(sum(per_report["bleu"]) / 4)
    for name in ("radeval_rouge1", "radeval_rougeL", "radeval_bleu_per_report"):
        assert ours[f"{name}_low"] <= ours[name] <= ours[f"{name}_high"]
    assert "radeval_bleu_low" not in ours  # of a set, and not a mean: nothing to resample


@pytest.mark.slow
def test_the_scores_are_what_radeval_has(radeval_python):
    code = """
from radeval.metrics._registry import METRIC_REGISTRY
print(json.dumps(list(METRIC_REGISTRY)))
"""
    known = set(run_json(radeval_python, code))
    assert known >= set(SCORES) >= set(OF_SETS)
    assert known - set(SCORES) == {"radfact_ct", "mammo_green"}


@pytest.mark.slow
@pytest.mark.parametrize("score", ["bertscore", "radgraph", "radcliq", "green"])
def test_weights_that_are_not_to_be_had_are_one_line(score, radeval_python):
    code = """
from otdrg_hf.metrics.radeval_adapter import radeval_figures
try:
    radeval_figures(["a"], ["b"], [given["score"]])
except OSError as error:
    print(json.dumps(str(error)))
"""
    message = run_json(radeval_python, code, score=score)
    assert message.startswith(f"RadEval's {score} cannot run here: ") and "\n" not in message
    assert message.endswith("(its weights are downloaded once: run it where the Hub can be reached)")


@pytest.mark.slow
def test_a_package_that_a_metric_needs_is_named(radeval_python):
    code = """
from otdrg_hf.metrics.radeval_adapter import radeval_figures
sys.modules["medspacy"] = sys.modules["stanza"] = None  # as if not installed
try:
    radeval_figures(["a"], ["b"], ["ratescore"])
except ImportError as error:
    print(json.dumps(str(error)))
"""
    assert run_json(radeval_python, code) == "RadEval's ratescore needs medspacy: pip install medspacy"


@pytest.mark.slow
def test_evaluate_adds_them_to_its_table(radeval_python, tmp_path):
    code = """
import io, contextlib, pathlib
from otdrg_hf import cli
path = pathlib.Path(given["folder"]) / "system.jsonl"
rows = [{"id": str(i), "generated_text": a, "reference": b} for i, (a, b) in enumerate(given["pairs"])]
path.write_text("".join(json.dumps(row) + "\\n" for row in rows))
sys.argv = ["otdrg", "evaluate", str(path), "--radeval", "rouge", "--num_bootstrap", "20", "--json"]
output = io.StringIO()
with contextlib.redirect_stdout(output):
    try:
        cli.main()
    except SystemExit as stop:
        assert not stop.code
print(json.dumps(json.loads(output.getvalue())["systems"]["system"]))
"""
    pairs = list(zip(PREDICTIONS, REFERENCES, strict=True))
    system = run_json(radeval_python, code, folder=str(tmp_path), pairs=pairs)
    assert system["figures"]["radeval_rougeL_low"] <= system["figures"]["radeval_rougeL"]
    assert system["record"]["versions"]["radeval"].startswith("2.")
