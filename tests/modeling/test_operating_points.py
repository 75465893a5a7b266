"""Operating points and plausible states: thresholds from curves, and reports that follow the states."""

import logging

import numpy as np
import pytest
import torch
from transformers import TextIteratorStreamer, TextStreamer, pipeline

from otdrg_hf import DEMO_CHECKPOINT, OTDRGConfig, RadiologyReportPipeline
from otdrg_hf.data import load_study_dataset
from otdrg_hf.labeling import LABELS, label_reports
from otdrg_hf.modeling.disease_states_otdrg import plausible_states, predict_states, thresholds_at
from tests.support.tiny_models import make_films

SHORT = {"max_new_tokens": 8}
FINDINGS = [label for label in LABELS if label != "No Finding"]
CURVE = [[0.9, 1.0, 0.2], [0.8, 0.95, 0.5], [0.6, 0.8, 0.7], [0.3, 0.7, 0.9], [0.1, 0.4, 0.96], [0.01, 0.1, 1.0]]
FITTED = {
    "positive_thresholds": [0.5] * 14,
    "operating_curves": dict.fromkeys(FINDINGS, CURVE),
    "conformal_thresholds": dict.fromkeys(LABELS, [0.2, 0.4]),
    "conformal_error_rate": 0.1,
}


def config_of(**fields):
    return OTDRGConfig(**{**FITTED, **fields})


def at(point, **fields):
    """The threshold of Edema and that of Fracture, and what is not reached."""
    thresholds, unreached = thresholds_at(point, config_of(**fields))
    return thresholds[LABELS.index("Edema")], thresholds[LABELS.index("Fracture")], unreached


@pytest.mark.parametrize(
    "point, threshold",
    [
        ("balanced", 0.5),
        ({"recall": 0.9}, 0.3),
        ({"recall": 0.91}, 0.1),
        ({"recall": 1}, 0.01),
        ({"precision": 0.8}, 0.6),
        ({"precision": 0.75}, 0.6),
        ({"precision": 1.0}, 0.9),
        ({"precision": 0.01}, 0.01),
    ],
    ids=str,
)
def test_a_point_takes_the_threshold_that_just_reaches_it(point, threshold):
    assert at(point) == (threshold, threshold, {})


def test_sensitive_and_specific_are_the_best_by_f2_and_f05_and_never_cross_balanced():
    def f(beta, row):
        return (1 + beta**2) * row[1] * row[2] / (beta**2 * row[1] + row[2])

    # The row of 0.01 is called ten times as often as there are positives.
    assert at("sensitive")[0] == max(CURVE[:-1], key=lambda row: f(2, row))[0] == 0.3
    assert at("specific")[0] == max(CURVE, key=lambda row: f(0.5, row))[0] == 0.8
    assert at("sensitive", positive_thresholds=[0.2] * 14)[0] == 0.2
    assert at("specific", positive_thresholds=[0.85] * 14)[0] == 0.85


def test_a_point_by_label_leaves_the_others_balanced():
    assert at({"Edema": {"recall": 0.95}}) == (0.1, 0.5, {})
    assert at({"Edema": "sensitive", "Fracture": {"precision": 0.95}}) == (0.3, 0.8, {})


def test_what_cannot_be_reached_takes_the_nearest_and_is_said():
    low = {**FITTED["operating_curves"], "Edema": [[0.7, 0.5, 0.4], [0.2, 0.6, 0.8]], "Fracture": []}
    edema, fracture, unreached = at({"precision": 0.9}, operating_curves=low)
    assert (edema, fracture) == (0.2, 0.5)
    assert unreached == {
        "Edema": {"asked": {"precision": 0.9}, "reached": 0.6},
        "Fracture": {"asked": {"precision": 0.9}, "reached": None},
    }
    edema, fracture, unreached = at("sensitive", operating_curves=low)
    assert fracture == 0.5 and unreached == {"Fracture": {"asked": "sensitive", "reached": None}}


@pytest.mark.parametrize(
    "point, message",
    [
        ("careful", "'careful' is not an operating point: give specific, balanced, sensitive"),
        (0.9, "0.9 is not an operating point"),
        ({"recall": 0.9, "precision": 0.9}, "is not an operating point"),
        ({"Edema": 0.9}, "0.9 is not an operating point"),
        ({}, "empty dict"),
        ({"recall": 0}, "a recall of 0 is impossible"),
        ({"precision": 95}, "a precision of 95 is impossible: give a share such as 0.9"),
        ({"recall": "0.9"}, "a recall of '0.9' is impossible"),
        ({"recall": float("nan")}, "impossible"),
        ({"recall": True}, "impossible"),
        ({"Oedema": "sensitive"}, "names 'Oedema'; the labels are Enlarged Cardiomediastinum, "),
        (
            {"No Finding": "sensitive"},
            "'No Finding' has no operating point of its own: it follows from the other labels",
        ),
    ],
    ids=str,
)
def test_a_point_that_makes_no_sense_is_refused_whether_there_are_curves_or_not(point, message):
    for fields in ({}, {"operating_curves": None}):
        with pytest.raises(ValueError) as refused:
            thresholds_at(point, config_of(**fields))
        assert message in str(refused.value) and "\n" not in str(refused.value)


@pytest.mark.parametrize("point", ["sensitive", {"recall": 0.9}, {"Edema": "specific"}], ids=str)
def test_a_model_without_curves_says_how_to_get_them(point):
    with pytest.raises(ValueError, match="otdrg calibrate MODEL --dataset"):
        thresholds_at(point, OTDRGConfig())
    assert thresholds_at("balanced", OTDRGConfig()) == (None, {})


def test_states_follow_thresholds():
    logits = torch.tensor([[0.3, 0.4, 0.2, 0.1]]).log().expand(1, 14, 4)
    config = config_of()
    assert (predict_states(logits, config)[0, :13] == 0).all() and predict_states(logits, config)[0, 13] == 1
    lower = predict_states(logits, config, [0.4] + [0.5] * 13)
    assert lower[0].tolist() == [1] + [0] * 13


def test_plausible_states_reach_their_thresholds():
    logits = torch.tensor([[0.5, 0.25, 0.15, 0.1], [0.3, 0.1, 0.3, 0.3]]).log()[:, None].expand(2, 14, 4)
    config = config_of()
    assert plausible_states(logits, config).tolist() == [[[True, True, False, False]] * 14, [[False] * 4] * 14]
    assert plausible_states(logits, OTDRGConfig()) is None


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"positive_thresholds": None}, "`operating_curves` need `positive_thresholds`"),
        ({"operating_curves": {"Edema": CURVE}}, "`operating_curves` must have an entry for each of"),
        ({"operating_curves": dict.fromkeys(FINDINGS, [[0.5, 1.0]])}, "rows of score, precision and recall"),
        ({"operating_curves": dict.fromkeys(FINDINGS, [[0.5, 1.0, 1.2]])}, "rows of score, precision and recall"),
        ({"conformal_thresholds": dict.fromkeys(FINDINGS, [0.2, 0.4])}, "`conformal_thresholds` must have an entry"),
        ({"conformal_thresholds": dict.fromkeys(LABELS, [0.2])}, "two numbers in [0, 1]"),
        ({"conformal_error_rate": None}, "`conformal_error_rate` must be between 0 and 1"),
        ({"conformal_error_rate": 1}, "`conformal_error_rate` must be between 0 and 1"),
    ],
    ids=str,
)
def test_a_configuration_that_cannot_work_is_refused(fields, message):
    with pytest.raises(ValueError) as refused:
        config_of(**fields)
    assert message in str(refused.value)


def test_a_configuration_keeps_them_on_disk(tmp_path):
    config_of().save_pretrained(tmp_path)
    loaded = OTDRGConfig.from_pretrained(tmp_path)
    assert {name: getattr(loaded, name) for name in FITTED} == FITTED


# In the pipeline


@pytest.fixture(scope="module")
def report():
    """The demo model with curves that were not fitted."""
    demo = pipeline("radiology-report", model=str(DEMO_CHECKPOINT), device="cpu")
    for name, value in FITTED.items():
        setattr(demo.model.config, name, value)
    return demo


@pytest.fixture(scope="module")
def studies():
    phantoms = load_study_dataset("phantom", split="test", num_studies=4, image_size=128)
    return [{"images": row["images"], "views": row["views"]} for row in phantoms]


def states_of(answer):
    return {finding["label"]: finding["state"] for finding in answer["findings"]}


def test_states_and_report_follow_the_point(report, studies):
    """A threshold of nearly 0 makes the label positive, and one of 1 keeps it from being so; the report says it."""
    curves = {**FITTED["operating_curves"], "Pneumothorax": [[1.0, 1.0, 0.1], [1e-9, 0.1, 1.0]]}
    report.model.config.operating_curves = curves
    try:
        plain = report(studies, batch_size=4)
        asked = [{"Pneumothorax": {"recall": 1.0}}, {"Pneumothorax": {"precision": 1.0}}]
        everywhere, nowhere = (report(studies, batch_size=4, operating_point=point) for point in asked)
    finally:
        report.model.config.operating_curves = FITTED["operating_curves"]
    index = LABELS.index("Pneumothorax")
    assert {states_of(answer)["Pneumothorax"] for answer in everywhere} == {"positive"}
    assert "positive" not in {states_of(answer)["Pneumothorax"] for answer in nowhere}
    written = [
        label_reports([answer["generated_text"] for answer in answers])[:, index] for answers in (everywhere, nowhere)
    ]
    assert (written[0] == 1).all() and not (written[1] == 1).any()
    for answer, before in zip(everywhere, plain, strict=True):
        assert states_of(answer)["No Finding"] == "blank"
        assert answer["operating_point"] == {"asked": asked[0], "unreached": {}}
        assert [f["score"] for f in answer["findings"]] == [f["score"] for f in before["findings"]]
        others = {
            label: state for label, state in states_of(answer).items() if label not in ("Pneumothorax", "No Finding")
        }
        assert others.items() <= states_of(before).items()


def overrides_of(report, monkeypatch, study, point, stated, **options):
    """
    The labels that a report at a point is written with as overrides, where the one without it states `stated`, and so
    does its revision, unless the two are given.
    """
    shown, reads = [], list(stated if isinstance(stated, tuple) else (stated, stated))

    def features(*args, **kwargs):
        found = encode(*args, **kwargs)
        shown.append(found.overridden)
        return found

    def read(texts, label_names):
        assert list(label_names) == list(LABELS)
        states = reads.pop(0)
        return np.array([[-100 if label == "No Finding" else states.get(label, 0) for label in LABELS]] * len(texts))

    encode = report.model.get_image_features
    monkeypatch.setattr(report.model, "get_image_features", features)
    monkeypatch.setattr(RadiologyReportPipeline, "read_states", staticmethod(read) if stated is not None else None)
    answer = report(study, operating_point=point, **{**SHORT, **options})
    last = torch.zeros(1, 14, dtype=torch.bool) if shown[-1] is None else shown[-1]
    return {label for label, is_shown in zip(LABELS, last[0].tolist(), strict=True) if is_shown}, answer


def test_what_the_report_without_the_point_states_is_not_overridden(report, studies, monkeypatch):
    """It keeps what was seen of it, and its side; what it leaves out or contradicts is overridden, predicted or not."""
    monkeypatch.setattr(report.model.config, "operating_curves", dict.fromkeys(FINDINGS, [[1e-9, 0.1, 1.0]]))
    every = dict.fromkeys(FINDINGS, 1)
    for missing in ([], ["Edema"], ["Fracture", "Pneumothorax"]):
        stated = {label: state for label, state in every.items() if label not in missing}
        overridden, answer = overrides_of(report, monkeypatch, studies[0], {"recall": 1.0}, stated)
        assert overridden - {"No Finding"} == set(missing)
        assert {label for label, state in states_of(answer).items() if state == "positive"} == set(FINDINGS)
    # A denial and doubt are not what was asked for.
    stated = {**every, "Edema": 2, "Fracture": 3}
    overridden, _ = overrides_of(report, monkeypatch, studies[0], {"recall": 1.0}, stated)
    assert overridden - {"No Finding"} == {"Edema", "Fracture"}


def test_what_a_revision_loses_is_overridden_as_well(report, studies, monkeypatch):
    monkeypatch.setattr(report.model.config, "operating_curves", dict.fromkeys(FINDINGS, [[1e-9, 0.1, 1.0]]))
    first = {label: 1 for label in FINDINGS if label != "Edema"}
    # Fracture gives way to Edema; what is stated neither before nor after stays an override.
    for second, expected in (({**first, "Fracture": 0, "Edema": 1}, {"Edema", "Fracture"}), (first, {"Edema"})):
        streamer = TextIteratorStreamer(report.tokenizer, skip_prompt=True, skip_special_tokens=True, timeout=60)
        streamed = {"streamer": streamer}
        overridden, answer = overrides_of(report, monkeypatch, studies[0], {"recall": 1.0}, (first, second), **streamed)
        assert overridden - {"No Finding"} == expected
        assert "".join(streamer).strip() == answer["generated_text"]


def test_what_is_absent_at_the_point_is_overridden_where_the_report_states_it(report, studies, monkeypatch):
    monkeypatch.setattr(report.model.config, "operating_curves", dict.fromkeys(FINDINGS, [[1.0, 1.0, 0.1]]))
    for state in (1, 2):
        stated = dict.fromkeys(FINDINGS, state)
        overridden, answer = overrides_of(report, monkeypatch, studies[0], {"precision": 1.0}, stated)
        states = {label: state for label, state in states_of(answer).items() if label in FINDINGS}
        agreeing = ("positive",) if state == 1 else ("blank", "negative")
        assert overridden - {"No Finding"} == {label for label, each in states.items() if each not in agreeing}
        # What is likely, but not likely enough, is uncertain.
        assert {"blank", "uncertain"} <= set(states.values())


def test_labels_that_stay_balanced_are_reported_as_without_a_point(report, studies, monkeypatch):
    stated = {"Fracture": 1, "Edema": 1}
    overridden, _ = overrides_of(report, monkeypatch, studies[0], {"Edema": {"precision": 1.0}}, stated)
    assert overridden - {"No Finding"} == {"Edema"}
    plain = report(studies[0], **SHORT)["generated_text"]
    overridden, answer = overrides_of(report, monkeypatch, studies[0], "balanced", {"Fracture": 1})
    assert overridden == set() and answer["generated_text"] == plain


def test_where_no_report_is_read_all_that_the_point_changes_is_an_override(report, studies, monkeypatch):
    """Without the labeler, as by remote code, and of samples."""
    monkeypatch.setattr(report.model.config, "operating_curves", dict.fromkeys(FINDINGS, [[1e-9, 0.1, 1.0]]))
    before = states_of(report(studies[0], **SHORT))
    changed = {label for label in FINDINGS if before[label] != "positive"}
    every = dict.fromkeys(FINDINGS, 1)
    for stated, options in ((None, {}), (every, {"generate_kwargs": {"do_sample": True}})):
        overridden, _ = overrides_of(report, monkeypatch, studies[0], {"recall": 1.0}, stated, **options)
        assert overridden - {"No Finding"} == changed


def test_samples_beside_a_report_at_a_point_are_those_without_it(report, studies, monkeypatch):
    """They are not revised, whatever the report that they follow was revised by."""
    monkeypatch.setattr(report.model.config, "operating_curves", dict.fromkeys(FINDINGS, [[1e-9, 0.1, 1.0]]))
    point, sampling = {"recall": 1.0}, {"do_sample": True, "num_return_sequences": 2}
    beside = report(studies[0], operating_point=point, sample_kwargs=sampling, seed=1, max_new_tokens=24)
    alone = report(studies[0], operating_point=point, generate_kwargs=sampling, seed=1, max_new_tokens=24)
    assert beside["candidates"][1:] == alone["candidates"]
    assert beside["generated_text"] == report(studies[0], operating_point=point, max_new_tokens=24)["generated_text"]


def test_a_given_label_stays_an_override_at_a_point(report, studies, monkeypatch):
    monkeypatch.setattr(report.model.config, "operating_curves", dict.fromkeys(FINDINGS, [[1e-9, 0.1, 1.0]]))
    study = {**studies[0], "disease_labels": {"Edema": "negative"}}
    overridden, _ = overrides_of(report, monkeypatch, study, {"recall": 1.0}, dict.fromkeys(FINDINGS, 1))
    assert overridden - {"No Finding"} == {"Edema"}


def test_a_stream_at_a_point_has_the_prompt_at_once_and_one_study(report, studies):
    shapes = []

    class Shapes(TextStreamer):
        def put(self, value):
            shapes.append(tuple(value.shape))
            super().put(value)

    streamer = Shapes(report.tokenizer)
    report(studies[0], operating_point={"recall": 0.9}, streamer=streamer, **SHORT)
    prompt = report.preprocess(studies[0])["study"]["input_ids"]
    assert shapes[0] == (1, len(prompt)) and set(shapes[1:]) == {(1,)}
    with pytest.raises(ValueError, match="batch size 1"):
        report(studies[:2], operating_point={"recall": 0.9}, streamer=streamer, batch_size=2, **SHORT)


def test_a_report_at_a_point_is_streamed_once_and_whole(report, studies):
    streamer = TextIteratorStreamer(report.tokenizer, skip_prompt=True, skip_special_tokens=True, timeout=60)
    answer = report(studies[0], operating_point={"recall": 0.9}, streamer=streamer, **SHORT)
    assert "".join(streamer).strip() == answer["generated_text"]


def test_a_point_encodes_an_image_once(report, studies, monkeypatch):
    monkeypatch.setattr(report, "input_statistics", None)  # else it is encoded to look at it
    runs = []
    hook = report.model.model.vision_tower.register_forward_hook(lambda *_: runs.append(1))
    try:
        report(studies[0], operating_point={"recall": 0.95}, max_new_tokens=4)
    finally:
        hook.remove()
    assert len(runs) == 1


def test_balanced_has_the_states_of_no_point(report, studies):
    for answer, plain in zip(
        report(studies[:2], operating_point="balanced", **SHORT), report(studies[:2], **SHORT), strict=True
    ):
        states, point = states_of(answer), answer.pop("operating_point")
        assert point == {"asked": "balanced", "unreached": {}} and states == states_of(plain)
        assert "operating_point" not in plain


def test_one_study_and_a_batch_are_answered_the_same(report, studies):
    batch = report(studies[:4], batch_size=4, operating_point={"recall": 0.9}, **SHORT)
    for study, answer in zip(studies, batch, strict=False):
        alone = report(study, operating_point={"recall": 0.9}, **SHORT)
        assert (alone["generated_text"], states_of(alone)) == (answer["generated_text"], states_of(answer))


def test_a_given_label_wins_over_the_point(report, studies):
    study = {**studies[0], "disease_labels": {"Edema": "negative", "Fracture": "positive"}}
    states = states_of(report(study, operating_point={"recall": 1.0}, **SHORT))
    assert states["Edema"] == "negative" and states["Fracture"] == "positive"


def test_a_pipeline_can_be_made_for_a_point(report, studies):
    made = pipeline("radiology-report", model=report.model, processor=report.processor, operating_point="sensitive")
    assert made(studies[0], **SHORT)["operating_point"]["asked"] == "sensitive"
    assert made(studies[0], operating_point="specific", **SHORT)["operating_point"]["asked"] == "specific"


def test_what_is_not_reached_is_warned_of_once(report, studies, caplog):
    curves = {**FITTED["operating_curves"], "Edema": [[0.4, 0.61, 0.9]], "Fracture": []}
    report.model.config.operating_curves = curves
    logger = logging.getLogger("transformers")
    logger.addHandler(caplog.handler)
    try:
        answers = [report(studies[0], operating_point={"precision": 0.93}, **SHORT) for _ in range(2)]
    finally:
        logger.removeHandler(caplog.handler)
        report.model.config.operating_curves = FITTED["operating_curves"]
    lines = [record.getMessage() for record in caplog.records]
    assert lines == [
        "Edema cannot reach a precision of 0.93: on validation it got to 0.61, which is what is used.",
        "The operating point of Fracture stays balanced: there was no study with it to fit a curve on.",
    ]
    assert set(answers[1]["operating_point"]["unreached"]) == {"Edema", "Fracture"}


def test_plausible_states_are_answered_where_the_model_knows_them(report, studies, folder):
    for finding in report(studies[0], **SHORT)["findings"]:
        assert list(finding) == ["label", "state", "score", "plausible"]
        assert ("positive" in finding["plausible"]) == (finding["score"] >= 0.2)
    uncalibrated = pipeline("radiology-report", model=str(folder))
    for finding in uncalibrated(make_films(1)[0], max_new_tokens=2)["findings"]:
        assert list(finding) == ["label", "state", "score"]
    with pytest.raises(ValueError, match="otdrg calibrate"):
        uncalibrated(make_films(1)[0], operating_point="sensitive")
