"""Rewards of reports, and advantages within groups."""

import math
import sys
from types import ModuleType

import numpy as np
import pytest
import torch

from otdrg_hf.labeling import LABELS, label_reports
from otdrg_hf.training.reward_trainer import reward_columns
from otdrg_hf.training.rewards import (
    REWARDS,
    call_reward,
    check_rewards,
    group_advantages,
    load_rewards,
    rare_label_weights,
    varying_groups,
)

REFERENCES = (
    "There is a small right pleural effusion. No pneumothorax.",
    "The lungs are clear. No pleural effusion.",
    "There is a left pneumothorax. The heart is enlarged.",
)


def score(name: str, completions, references=REFERENCES, beta=1.0, power=0.0) -> list[float]:
    rewards = load_rewards({name: 1.0}, references, beta, power)
    studies = [{"report": reference} for reference in references]
    columns = reward_columns(studies, "report", completions)
    return call_reward(name, rewards[name], {**columns, "shown": columns["labels"]}).tolist()


def test_a_report_that_says_what_its_reference_says_has_every_reward_in_full():
    for name in REWARDS:
        # The range of lengths leaves out the shortest and the longest references.
        assert score(name, REFERENCES) == pytest.approx([1.0] * 3, abs=0.03 if name == "length" else 1e-6), name


def test_the_clinical_reward_is_the_example_f1_of_findings():
    written = [
        "There is a right pleural effusion and a left pneumothorax.",  # one of two is right
        "The lungs are clear.",  # nothing to find, nothing found
        "No pneumothorax.",  # both are missed
    ]
    assert score("clinical", written) == pytest.approx([2 / 3, 1.0, 0.0])


def test_recall_emphasis_prefers_too_many_findings_to_too_few():
    too_many = ["Right pleural effusion, left pneumothorax and pulmonary edema.", *REFERENCES[1:]]
    too_few = [*REFERENCES[:2], "There is a left pneumothorax."]
    many = [score("clinical", too_many, beta=beta)[0] for beta in (0.5, 1.0, 2.0)]
    few = [score("clinical", too_few, beta=beta)[2] for beta in (0.5, 1.0, 2.0)]
    assert many == sorted(many) and many[0] < many[2]
    assert few == sorted(few, reverse=True) and few[0] > few[2]


def test_rare_findings_weigh_more():
    common, rare = LABELS.index("Pleural Effusion"), LABELS.index("Fracture")
    reports = ["There is a pleural effusion."] * 9 + ["There is a rib fracture."]
    weights = rare_label_weights(label_reports(reports), 0.5)
    order = [index for index, label in enumerate(LABELS) if label != "No Finding"]
    assert weights[order.index(rare)] == pytest.approx(3 * weights[order.index(common)])
    assert weights.mean() == pytest.approx(1) and np.all(rare_label_weights(label_reports(reports), 0) == 1)


def test_agreement_is_with_the_states_that_the_report_was_written_from():
    columns = reward_columns([{"report": REFERENCES[0]}], "report", ["There is a left pneumothorax."])
    shown = np.zeros((1, 14), dtype=np.int64)
    shown[0, LABELS.index("Pneumothorax")] = 1
    full = call_reward("head_agreement", REWARDS["head_agreement"], {**columns, "shown": shown})
    assert full.tolist() == [1.0]
    shown[0, LABELS.index("Edema")] = 1
    one_less = call_reward("head_agreement", REWARDS["head_agreement"], {**columns, "shown": shown})
    assert one_less.tolist() == pytest.approx([12 / 13])


def test_sides_repetition_and_length():
    assert score("laterality", ["There is a small left pleural effusion.", "", "A left pneumothorax."]) == [0, 1, 1]
    repeated = score("no_repetition", ["a b c a b c a b c", "a b c d", ""])
    assert repeated[0] < 0.5 and repeated[1:] == [1, 1]
    short, long, right = score("length", ["", "word " * 100, REFERENCES[2]])
    assert short == long == 0 and right == 1


@pytest.mark.parametrize(
    "values, message",
    [
        ([1.0], "gives 1 rewards for 3 completions"),
        (0.5, "gives float for 3 completions"),
        (["good", "good", "bad"], "gives str"),
    ],
)
def test_a_reward_of_ones_own_that_gives_something_else_is_named(values, message, monkeypatch):
    module = ModuleType("own_rewards")
    module.mine = lambda completions, **columns: values
    monkeypatch.setitem(sys.modules, "own_rewards", module)
    rewards = load_rewards({"own_rewards:mine": 1.0}, REFERENCES, 1.0, 0.0)
    columns = reward_columns([{"report": each} for each in REFERENCES], "report", REFERENCES)
    with pytest.raises(ValueError, match=f"'own_rewards:mine' {message}"):
        check_rewards(rewards, columns)


def test_a_reward_of_ones_own_that_fails_or_is_not_there_is_named(monkeypatch):
    module = ModuleType("own_rewards")
    module.mine = lambda completions: 1 / 0
    monkeypatch.setitem(sys.modules, "own_rewards", module)
    rewards = load_rewards({"own_rewards:mine": 1.0}, REFERENCES, 1.0, 0.0)
    with pytest.raises(ValueError, match="'own_rewards:mine' fails: TypeError"):
        check_rewards(rewards, {"completions": ["a"], "references": ["a"]})
    for name, message in {
        "clinicl": "is not a reward: choose from clinical",
        "own_rewards:yours": "cannot be imported",
        "no_such_module:mine": "cannot be imported",
    }.items():
        with pytest.raises(ValueError, match=message):
            load_rewards({name: 1.0}, REFERENCES, 1.0, 0.0)


def test_a_module_in_the_current_folder_and_metrics_of_radeval_are_found(tmp_path, monkeypatch):
    (tmp_path / "rewards_of_mine.py").write_text(
        "def short(completions, **columns):\n    return [1.0] * len(completions)\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [each for each in sys.path if each])
    radeval = ModuleType("radeval")

    def make_reward_fn(metric, reference_column="ground_truth", key=None):
        def reward(completions, **columns):
            return [torch.tensor(float(len(columns[reference_column])))] * len(completions)

        made.append((metric, key))
        return reward

    made: list = []
    radeval.make_reward_fn = make_reward_fn
    monkeypatch.setitem(sys.modules, "radeval", radeval)
    weights = {"rewards_of_mine:short": 1.0, "radeval:bleu": 1.0, "radeval:radgraph.radgraph_partial": 1.0}
    rewards = load_rewards(weights, REFERENCES, 1.0, 0.0)
    columns = reward_columns([{"report": each} for each in REFERENCES], "report", REFERENCES)
    check_rewards(rewards, columns)
    assert made == [("bleu", None), ("radgraph", "radgraph_partial")]
    assert call_reward("radeval:bleu", rewards["radeval:bleu"], columns).tolist() == [3.0] * 3


def test_none_and_nan_are_samples_without_a_reward():
    values = call_reward("own", lambda completions, **columns: [None, math.nan, 2], {"completions": ["a", "b", "c"]})
    assert values.isnan().tolist() == [True, True, False]


def test_advantages_are_normalised_per_reward_and_then_weighted():
    rewards = torch.tensor([[0.0, 10.0], [1.0, 30.0], [0.0, 20.0], [1.0, 20.0]])
    advantages, scored, varies = group_advantages(rewards, torch.tensor([1.0, 0.0]), 4)
    assert scored.all() and varies.all()
    spread = torch.tensor([0.0, 1.0, 0.0, 1.0]).std()
    torch.testing.assert_close(advantages, torch.tensor([-0.5, 0.5, -0.5, 0.5]) / spread)
    both, *_ = group_advantages(rewards, torch.tensor([1.0, 2.0]), 4)
    assert both[0] == both.min() and both[1] == both.max()
    # Whatever the scale of a reward.
    scaled, *_ = group_advantages(rewards * torch.tensor([1.0, 100.0]), torch.tensor([1.0, 2.0]), 4)
    torch.testing.assert_close(both, scaled)


def test_what_varies_is_counted_for_each_reward():
    nan = float("nan")
    rewards = torch.tensor([[1.0, 0.5], [1.0, 0.7], [nan, nan], [0.2, nan]])
    assert varying_groups(rewards, 2).tolist() == [[False, True], [False, False]]
    assert varying_groups(torch.tensor([[nan], [0.1], [0.2], [0.2]]), 4).tolist() == [[True]]


def test_groups_without_variation_and_samples_without_reward_are_left_out():
    nan = math.nan
    rewards = torch.tensor([[1.0], [1.0], [0.1], [0.1 + 1e-9], [0.0], [1.0], [nan], [2.0]])
    advantages, scored, varies = group_advantages(rewards, torch.ones(1), 2)
    assert scored.tolist() == [True] * 6 + [False, True]
    assert varies.tolist() == [False] * 4 + [True] * 2 + [False] * 2
    assert advantages[:4].tolist() == [0] * 4 and advantages[4] == -advantages[5] < 0
    assert advantages[6:].tolist() == [0, 0] and not advantages.isnan().any()
