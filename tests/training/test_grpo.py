"""Clinical-reward training as a whole: what is trained, what is left out, resuming, collapse, and what is refused."""

import contextlib
import io
import json
from pathlib import Path

import pytest
import torch
import yaml
from tiny_rewards import reward, save_start, weights
from tiny_training import write_study_folder
from transformers import TrainerCallback
from trl import GRPOConfig

from otdrg_hf import OTDRGForConditionalGeneration, OTDRGModel
from otdrg_hf.hub.provenance import transfer_line
from otdrg_hf.hub.push import plan_push
from otdrg_hf.training import grpo, reward_trainer
from otdrg_hf.training.arguments import RecipeParser
from otdrg_hf.training.reward_arguments import RewardArguments, check_reward_options
from otdrg_hf.training.reward_trainer import CollapseStop

RECIPES = sorted((Path(__file__).parents[2] / "training/recipes").glob("*_grpo.yaml"))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_study_folder(tmp_path_factory.mktemp("data"), train=6, validation=3, test=4)


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    return save_start(tmp_path_factory.mktemp("start"))


def refusal(folder, data, start, *arguments, **changes) -> str:
    """The one line by which a run is refused before its first step, with exit code 2."""
    errors = io.StringIO()
    with contextlib.redirect_stderr(errors), pytest.raises(SystemExit) as stop:
        reward(folder, data, start, *arguments, **changes)
    lines = [line for line in errors.getvalue().splitlines() if line.startswith("error: ")]
    assert stop.value.code == 2 and len(lines) == 1, errors.getvalue()
    assert not list(folder.glob("out/**/*.safetensors"))
    return lines[0]


def test_the_llm_alone_is_trained_and_the_record_says_by_what(data, start, tmp_path, capsys):
    out = reward(tmp_path, data, start, watch=[f"{data}:test"])
    before, after = weights(start), weights(out)
    changed = {name for name in after if not torch.equal(before[name], after[name])}
    assert changed and all(".layers." in name or name.endswith("language_model.norm.weight") for name in changed)
    assert all("language_model" in name for name in changed)
    log = json.loads((out / "training_log.json").read_text())
    steps = [entry for entry in log if "kl" in entry]
    named = {"kl", "entropy", "distinct", "left_out", "completions/mean_length", "rewards/rouge_l", "reward"}
    assert len(steps) == 2 and all(named <= step.keys() for step in steps)
    assert all(step["rewards/rouge_l/varies"] in (0, 0.5, 1) for step in steps)
    assert steps[0]["kl"] == pytest.approx(0, abs=1e-6) and steps[1]["kl"] > 0
    stage = json.loads((out / "training_record.json").read_text())["stages"][-1]
    assert stage["stage"] == "reward" and stage["rewards"] == {"tiny_rewards:seen_words": 1.0, "rouge_l": 0.5}
    transfer = json.loads((out / "transfer.json").read_text())
    counts = [each.pop("counts") for each in transfer]
    assert stage["transfer"] == transfer
    assert all(len(each[time]) == 3 for each in counts for time in ("before", "after"))
    assert [each["name"].split(" ", 1)[1] for each in transfer] == ["validation report", "test report"]
    assert [each["studies"] for each in transfer] == [3, 3]
    assert str(tmp_path) not in (out / "training_record.json").read_text()
    card = (out / "README.md").read_text()
    assert "validation studies of its own data" in card and "but for what the clinical reward was watched on" in card
    assert "clinical reward" in card and "test report, 3 | " in card and "reward rouge_l | 0.5" in card
    printed = capsys.readouterr().out
    assert "CE13 micro-F1 of reports after the reward minus before" in printed
    last = printed.strip().splitlines()[-1]
    assert last in card and last in plan_push(out, "org/model", private=True).text()
    OTDRGForConditionalGeneration.from_pretrained(out)


def test_groups_without_variation_are_left_out_and_counted(data, start, tmp_path, capsys):
    out = reward(tmp_path, data, start, rewards={"tiny_rewards:constant": 1.0}, beta=0.0)
    assert "Samples left out: 16 without variation, 0 without reward." in capsys.readouterr().out
    before, after = weights(start), weights(out)
    assert all(torch.equal(before[name], after[name]) for name in after)


def test_samples_without_a_reward_are_left_out_and_counted(data, start, tmp_path, capsys):
    out = reward(tmp_path, data, start, rewards={"tiny_rewards:not_a_number": 1.0})
    assert "Samples left out: 0 without variation, 4 without reward." in capsys.readouterr().out
    log = json.loads((out / "training_log.json").read_text())
    assert [entry["left_out"] for entry in log if "left_out" in entry] == [0.25, 0.25]
    assert all(torch.isfinite(value).all() for value in weights(out).values())


class Killed(Exception):
    """Stands for what ends a process."""


class KillAfter(TrainerCallback):
    def __init__(self, step: int):
        self.step = step

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            raise Killed


def test_a_killed_and_resumed_run_equals_an_unbroken_one(data, start, tmp_path, monkeypatch):
    saved = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2, "watch": [f"{data}:test"]}
    saved["rewards"] = {"tiny_rewards:not_a_number": 1.0, "tiny_rewards:seen_words": 1.0}
    (tmp_path / "a").mkdir(), (tmp_path / "b").mkdir()
    whole = reward(tmp_path / "a", data, start, **saved)
    set_up = grpo.set_up

    def killed(*args):
        trainer, *others = set_up(*args)
        trainer.add_callback(KillAfter(3))
        return trainer, *others

    with monkeypatch.context() as patched, pytest.raises(Killed):
        patched.setattr(grpo, "set_up", killed)
        reward(tmp_path / "b", data, start, **saved)
    resumed = reward(tmp_path / "b", data, start, **saved)
    for name, value in weights(whole).items():
        assert torch.equal(value, weights(resumed)[name]), name
    for out in (whole, resumed):
        left_out = json.loads((out / "training_record.json").read_text())["stages"][-1]["left_out"]
        assert left_out == {"without variation": 0, "without reward": 8}
    # What was written before the first step is what the end is compared with.
    assert json.loads((whole / "transfer.json").read_text()) == json.loads((resumed / "transfer.json").read_text())
    assert "watched other studies" in refusal_of_resume(tmp_path / "b", data, start, **{**saved, "watch": []})


def refusal_of_resume(folder, data, start, **changes) -> str:
    errors = io.StringIO()
    with contextlib.redirect_stderr(errors), pytest.raises(SystemExit):
        reward(folder, data, start, **changes)
    return errors.getvalue()


def test_samples_are_used_for_several_steps_where_asked_for(data, start, tmp_path):
    out = reward(tmp_path, data, start, num_iterations=2, max_steps=4, learning_rate=1.0e-2)
    ratios = [
        entry["clip_ratio/region_mean"]
        for entry in json.loads((out / "training_log.json").read_text())[:-1]
        if "kl" in entry
    ]
    assert ratios[0] == 0 and max(ratios[1::2]) > 0


def test_lora_trains_an_adapter_and_takes_the_model_without_it_as_reference(data, start, tmp_path, monkeypatch):
    monkeypatch.setattr(reward_trainer, "_frozen_copy", lambda model: pytest.fail("a copy of the model"))
    out = reward(tmp_path, data, start, use_peft=True, lora_r=2, learning_rate=1.0e-2)
    names = weights_of_adapter(out)
    assert names and all("lora_" in name and "language_model" in name for name in names)
    kl = [entry["kl"] for entry in json.loads((out / "training_log.json").read_text()) if "kl" in entry]
    assert kl[0] == pytest.approx(0, abs=1e-6) and kl[1] > 0


def test_an_adapter_on_a_quantised_policy_is_trained_in_fp32(data, start, tmp_path, monkeypatch):
    put_on_base = grpo.put_on_base

    def quantized(*args):
        model = put_on_base(*args)
        model.is_loaded_in_8bit = True  # by which TRL knows one, and casts what is trained to bf16
        return model

    monkeypatch.setattr(grpo, "put_on_base", quantized)
    out = reward(tmp_path, data, start, use_peft=True, lora_r=2, max_steps=1)
    from safetensors.torch import load_file

    assert {value.dtype for value in load_file(out / "adapter_model.safetensors").values()} == {torch.float32}


def weights_of_adapter(folder) -> list[str]:
    from safetensors.torch import load_file

    return list(load_file(folder / "adapter_model.safetensors"))


@pytest.mark.parametrize("changes", [{}, {"use_peft": True, "lora_r": 2}], ids=["whole", "lora"])
def test_gradient_checkpointing_takes_the_same_steps(changes, data, start, tmp_path):
    (tmp_path / "a").mkdir(), (tmp_path / "b").mkdir()
    kept = reward(tmp_path / "a", data, start, **changes)
    computed_again = reward(tmp_path / "b", data, start, gradient_checkpointing=True, **changes)
    logs = (json.loads((out / "training_log.json").read_text()) for out in (kept, computed_again))
    first, second = ([entry["grad_norm"] for entry in log if "kl" in entry] for log in logs)
    assert min(first) > 0 and second == pytest.approx(first, rel=1e-4)


def test_a_policy_that_is_spread_over_devices_is_refused(data, start, tmp_path, monkeypatch):
    monkeypatch.setattr("otdrg_hf.training.reward_arguments.sharding", lambda: ("FSDP", ("weights",)))
    assert "FSDP spreads a policy over devices" in refusal(tmp_path, data, start)


def test_cached_features_give_the_same_run(data, start, tmp_path):
    (tmp_path / "a").mkdir(), (tmp_path / "b").mkdir()
    images = reward(tmp_path / "a", data, start)
    cached = reward(tmp_path / "b", data, start, feature_cache=str(tmp_path / "features"))
    for name, value in weights(images).items():
        # Cached features are fp16.
        torch.testing.assert_close(value, weights(cached)[name], atol=5e-3, rtol=0, msg=name)


def test_cached_features_are_those_of_watched_studies_as_well(data, start, tmp_path, monkeypatch):
    (tmp_path / "a").mkdir(), (tmp_path / "b").mkdir()
    cached = {"feature_cache": str(tmp_path / "features"), "watch": [f"{data}:test"], "max_steps": 1}
    first = reward(tmp_path / "a", data, start, **cached)
    monkeypatch.setattr(OTDRGModel, "encode_views", None)  # raises if it is run
    again = reward(tmp_path / "b", data, start, **cached)
    assert (first / "transfer.json").read_text() == (again / "transfer.json").read_text()


@pytest.mark.parametrize(
    "logs, history, reason",
    [
        ({"distinct": 0.05, "entropy": 1.0}, [{"entropy": 1.0}], "only 5.0% of the sampled reports are distinct"),
        ({"distinct": 0.9, "entropy": 0.05}, [{"entropy": 1.0}], "the entropy fell from 1.000 to 0.050"),
        ({"distinct": 0.9, "entropy": 0.5}, [{"entropy": 1.0}], None),
        ({"loss": 1.0}, [{"entropy": 1.0}], None),
    ],
)
def test_a_collapse_is_seen(logs, history, reason):
    class State:
        log_history = history

    class Control:
        should_training_stop, should_save = False, True

    stop, control = CollapseStop(0.1, 0.1), Control()
    stop.on_log(None, State, control, logs=logs)
    assert stop.reason == reason and control.should_training_stop == bool(reason)
    assert control.should_save is (reason is None)


def test_a_collapsed_run_keeps_the_last_checkpoint_before(data, start, tmp_path, capsys, monkeypatch):
    on_log = CollapseStop.on_log

    def collapsing(self, args, state, control, logs=None, **kwargs):
        if logs and "distinct" in logs and state.global_step == 3:
            logs = {**logs, "distinct": 0.0}
        return on_log(self, args, state, control, logs=logs, **kwargs)

    monkeypatch.setattr(CollapseStop, "on_log", collapsing)
    out = reward(tmp_path, data, start, max_steps=6, save_strategy="steps", save_steps=2)
    assert "The policy has collapsed: only 0.0%" in capsys.readouterr().out
    assert sorted(path.name for path in out.glob("checkpoint-*")) == ["checkpoint-2"]
    for name, value in weights(out / "checkpoint-2").items():
        assert torch.equal(value, weights(out)[name]), name
    assert "distinct" in json.loads((out / "training_record.json").read_text())["stages"][-1]["collapse"]


def test_a_run_that_collapses_before_its_first_checkpoint_saves_nothing(data, start, tmp_path, capsys):
    # Of a run before, which is no way out.
    before = tmp_path / "out/checkpoint-7"
    before.mkdir(parents=True)
    (before / "trainer_state.json").write_text("{}")
    with pytest.raises(SystemExit) as stop:
        reward(
            tmp_path,
            data,
            start,
            "--resume",
            "false",
            min_distinct_share=1.0,
            rewards={"clinical": 1.0, "tiny_rewards:seen_words": 1.0},
            num_generations=8,
            max_completion_length=1,
        )
    assert stop.value.code == 1 and "collapsed before the first checkpoint" in capsys.readouterr().err
    assert not list((tmp_path / "out").glob("**/*.safetensors"))


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"num_generations": 1, "per_device_train_batch_size": 2}, "at least 2 generations"),
        ({"num_generations": 3}, "num_generations"),
        ({"per_device_train_batch_size": 32}, "There are 6 training studies, fewer than the 8"),
        ({"rewards": {"tiny_rewards:too_few": 1.0}}, "gives 1 rewards for 4 completions"),
        ({"rewards": {"clinicl": 1.0}}, "'clinicl' is not a reward"),
        ({"rewards": {"clinical": 0.0}}, "nothing to learn from"),
        ({"rewards": {"clinical": "much"}}, "give a number"),
        ({"model_name_or_path": None}, "model_name_or_path is missing"),
        (
            {"model_name_or_path": "/no/such/model"},
            "Cannot load /no/such/model: model_name_or_path is neither a folder",
        ),
        (
            {"finding_weight": 2.0},
            "finding_weight is for the stages warmup, finetune, joint: leave it out of the stage 'reward'",
        ),
        ({"indication_dropout": 0.5}, "--indication_dropout is for the stages"),
        ({"labels_from": "dataset"}, "--labels_from is for the stages"),
        ({"text_learning_rate": 0.1}, "--text_learning_rate is for the stages"),
        ({"label_encoder": "bert"}, "--label_encoder is for the stages"),
        ({"top_p": 0.9}, "top_p 0.9 is not done here"),
        ({"generation_kwargs": {"top_k": 5}}, "generation_kwargs"),
        ({"eval_strategy": "steps", "eval_steps": 1}, "eval_strategy is not used here"),
        ({"recall_emphasis": 0.0}, "recall_emphasis is 0.0"),
        ({"temperature": 0.0}, "temperature is 0.0"),
        ({"beta": -0.1}, "beta is -0.1"),
        ({"max_completion_length": 0}, "max_completion_length is 0"),
        ({"watch": ["phantom:test:report:more"]}, "is not DATASET"),
        ({"watch": ["phantom:no_such_split"]}, "no_such_split"),
        ({"target": "impression"}, "No validation study"),
        ({"num_iterations": 3, "save_strategy": "steps", "save_steps": 2}, "save_steps is 2: give a multiple of 3"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_mistakes_are_one_line_before_the_first_step(changes, message, data, start, tmp_path):
    assert message in refusal(tmp_path, data, start, **changes)


def test_a_checkpoint_that_does_not_write_reports_is_refused(data, tmp_path):
    aligned = save_start(tmp_path / "aligned", trained_on_reports=False)
    assert "was not trained to write reports" in refusal(tmp_path, data, aligned)
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text("{}")
    assert "is an adapter: merge it, by otdrg merge" in refusal(tmp_path, data, adapter)


def test_a_dry_run_reads_no_weights_and_says_what_a_step_costs(data, start, tmp_path, capsys):
    (start / "model.safetensors").rename(start / "elsewhere")
    try:
        reward(tmp_path, data, start, dry_run=True)
    finally:
        (start / "elsewhere").rename(start / "model.safetensors")
    plan = capsys.readouterr().out
    assert "reward, vit + llama" in plan and "8 samples per step" in plan and "rollout" in plan and "reference" in plan
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_recipes_parse(recipe):
    parser = RecipeParser(RewardArguments, GRPOConfig)
    args, training_args, model_args = parser.parse_args_and_config(
        ["--config", str(recipe), "--bf16", "true", "--use_cpu", "true"]
    )
    fields = yaml.safe_load(recipe.read_text())
    for name in fields.keys() - {"bf16", "report_to"}:  # "none" is read as an empty list
        holder = next(holder for holder in (args, training_args, model_args) if hasattr(holder, name))
        assert getattr(holder, name) == fields[name], name
    check_reward_options(args, training_args, model_args)
    assert training_args.generation_batch_size % training_args.num_generations == 0


def test_rewards_of_ones_own_are_added_by_name():
    parser = RecipeParser(RewardArguments, GRPOConfig)
    words = ["--rewards", '{"clinical": 2}', "--reward", "mine:first", "mine:second", "--bf16", "false"]
    args, *_ = parser.parse_args_and_config(words)
    assert args.rewards == {"clinical": 2, "mine:first": 1.0, "mine:second": 1.0}


def test_the_last_line_says_where_was_gained_and_where_was_lost():
    def compared(name, difference, low, high):
        return {"name": name, "difference": {"ce13_micro_f1": {"difference": difference, "low": low, "high": high}}}

    line = transfer_line(
        [compared("a", 0.05, 0.02, 0.08), compared("b", -0.03, -0.05, -0.01), compared("c", 0.0, -0.1, 0.1)]
    )
    assert "gained: a +5.0 (+2.0 to +8.0); lost: b -3.0 (-5.0 to -1.0); no clear difference: c +0.0" in line


def test_steps_without_a_kept_sample_do_not_pass_for_a_collapse(data, start, tmp_path):
    rewards = {"tiny_rewards:varies_in_the_first_step": 1.0}
    out = reward(tmp_path, data, start, rewards=rewards, max_steps=3, logging_steps=1)
    log = [entry for entry in json.loads((out / "training_log.json").read_text()) if "distinct" in entry]
    assert [entry["left_out"] for entry in log] == [0.0, 1.0, 1.0]
    assert ["entropy" in entry for entry in log] == ["kl" in entry for entry in log] == [True, False, False]
    assert json.loads((out / "training_record.json").read_text())["stages"][-1].get("collapse") is None
