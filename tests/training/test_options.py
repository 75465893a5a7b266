"""Options of TRL and transformers: each does what it says, or is refused in one line before the first step."""

import json
import shutil

import pytest
import torch
from tiny_runs import EVALUATED, GPT2, LORA, SAVED, UNTIED, refusal, train
from tiny_training import LLAMA, OTDRG, VIT, tiny_rows, write_study_folder
from transformers import AutoModelForImageTextToText, AutoProcessor

from otdrg_hf import OTDRGForConditionalGeneration
from otdrg_hf.hub.command import merge_adapter
from otdrg_hf.training import sft
from otdrg_hf.training.calibrate import run_calibrate
from otdrg_hf.training.collator import StudyCollator

BEST = {**SAVED, "load_best_model_at_end": True}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """An image folder of 8 studies to train on and 4 to validate on."""
    return write_study_folder(tmp_path_factory.mktemp("data"), train=8, validation=4)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"label_smoothing_factor": 0.1}, "label_smoothing_factor 0.1"),
        ({"loss_type": "dft"}, "loss_type 'dft'"),
        ({"loss_type": "focal"}, "loss_type 'focal' is not one of nll"),
        ({"completion_only_loss": False}, "completion_only_loss False"),
        ({"assistant_only_loss": True}, "assistant_only_loss True"),
        ({"packing": True}, "packing True"),
        ({"packing_strategy": "wrapped"}, "packing_strategy 'wrapped'"),
        ({"hub_model_id": "a/b"}, "hub_model_id 'a/b' is not done here: use otdrg push"),
        ({"eval_packing": True}, "eval_packing True"),
        ({"padding_free": True}, "padding_free True"),
        ({"pad_to_multiple_of": 8}, "pad_to_multiple_of 8"),
        ({"max_length": 64}, "max_length 64"),
        ({"truncation_mode": "keep_end"}, "truncation_mode 'keep_end'"),
        ({"shuffle_dataset": True}, "shuffle_dataset True"),
        ({"dataset_text_field": "findings"}, "dataset_text_field 'findings' is not done here: the text to learn"),
        ({"dataset_kwargs": {"add_special_tokens": True}}, "dataset_kwargs"),
        ({"model_init_kwargs": {"dtype": "bfloat16"}}, "model_init_kwargs"),
        ({"trust_remote_code": True}, "trust_remote_code True"),
        ({"model_revision": "v2"}, "model_revision 'v2'"),
        ({"router_aux_loss_coef": 0.01}, "router_aux_loss_coef 0.01"),
        ({"pad_token": "<s>"}, "pad_token '<s>'"),
        ({"use_liger_kernel": True}, "use_liger_kernel True"),
        ({"label_names": ["labels"]}, "label_names ['labels']"),
        ({"eval_do_concat_batches": False}, "eval_do_concat_batches False"),
        ({"batch_eval_metrics": True}, "batch_eval_metrics True"),
        ({"include_for_metrics": ["inputs"]}, "include_for_metrics ['inputs']"),
        ({"push_to_hub": True}, "push_to_hub True is not done here: use otdrg push"),
        ({"do_predict": True}, "do_predict True"),
        ({"use_cache": True}, "use_cache True"),
        ({"debug": "underflow_overflow"}, "debug"),
        ({**LORA, "lora_task_type": "SEQ_CLS"}, "lora_task_type 'SEQ_CLS'"),
    ],
)
def test_what_would_be_dropped_is_refused(changes, message, data, tmp_path):
    assert message in refusal(tmp_path, data, **changes)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"lora_r": 4}, "lora_r goes with use_peft"),
        ({"lora_modules_to_save": ["lm_head"]}, "lora_modules_to_save goes with use_peft"),
        ({"use_dora": True}, "use_dora goes with use_peft"),
        ({"frozen_dtype": "bfloat16"}, "frozen_dtype goes with frozen parts"),
        ({"generate_eval_studies": 2}, "generate_eval_studies goes with evaluations"),
        ({"do_eval": True}, "do_eval goes with evaluations"),
        ({"load_best_model_at_end": True}, "The best model by loss is found by evaluations"),
        ({"save_strategy": "best", "metric_for_best_model": "ot_loss"}, "The best model by ot_loss is found by"),
        ({"stage": "align", "neftune_noise_alpha": 5}, "neftune_noise_alpha"),
        ({"activation_offloading": True}, "activation_offloading"),
        ({"optim_target_modules": ["q_proj"]}, "optim_target_modules goes with"),
        ({"optim_args": "momentum=0.9"}, "optim_args 'momentum=0.9' has nothing that adamw_torch_fused"),
        ({"optim": "sgd", "optim_args": "momentm=0.9"}, "optim_args 'momentm=0.9' has nothing that sgd"),
    ],
)
def test_what_needs_another_option_is_refused_without_it(changes, message, data, tmp_path):
    assert message in refusal(tmp_path, data, **changes)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"stage": "alignment"}, "stage 'alignment' is not one of warmup, align, finetune, joint"),
        ({"dtype": "half"}, "dtype 'half' is not one of"),
        ({"per_device_train_batch_size": 0}, "per_device_train_batch_size is 0"),
        ({"gradient_accumulation_steps": 0}, "gradient_accumulation_steps is 0"),
        ({"max_steps": -1, "num_train_epochs": 0}, "num_train_epochs is 0"),
        ({"save_strategy": "steps", "save_steps": 0}, "save_steps is 0"),
        ({"lr_scheduler_type": "cosine_with_min_lr"}, "lr_scheduler_type cosine_with_min_lr"),
        ({"lr_scheduler_type": "cosine", "lr_scheduler_kwargs": {"cycles": 2}}, "'cycles'"),
        ({"accelerator_config": {"no_such_field": 1}}, "no_such_field"),
        ({"resume_from_checkpoint": "nowhere"}, "resume_from_checkpoint 'nowhere' is not a complete checkpoint"),
        ({"attn_implementation": "no_such_kernel"}, "no_such_kernel"),
        ({"otdrg_config": {"tolerance": "1e-4"}}, "`tolerance` must be a number, got '1e-4'"),
        ({"otdrg_config": {"image_grid": [2, 2]}}, "image_grid, which the backbones"),
        ({"otdrg_config": {"label_word_ids": [[[1]]]}}, "label_word_ids, which the backbones"),
        ({"text_config": {**LLAMA, "num_attention_heads": 5}}, "text_config: "),
        ({"vision_config": {**VIT, "num_hidden_layers": "two"}}, "vision_config: "),
        ({"eos_token": "<|no|>"}, "eos_token '<|no|>' is not a token"),
        ({"chat_template_path": "absent.jinja"}, "chat_template_path 'absent.jinja' is not a .jinja file"),
    ],
)
def test_a_value_that_cannot_be_used_is_refused(changes, message, data, tmp_path):
    assert message in refusal(tmp_path, data, **changes)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--stage", "both"], "argument --stage: invalid choice: 'both'"),
        (["--max_steps", "many"], "invalid int value: 'many'"),
        (["--bf16", "perhaps"], "argument --bf16: Truthy value expected"),
    ],
)
def test_a_mistake_on_the_command_line_comes_without_a_page_of_usage(arguments, message, data, tmp_path, capsys):
    assert message in refusal(tmp_path, data, *arguments)
    assert "usage" not in capsys.readouterr().out


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"optim": "adamw_8bit"}, "optim adamw_8bit: You need to install `bitsandbytes`"),
        ({"optim": "galore_adamw", "optim_target_modules": ["q_proj"]}, "optim galore_adamw: You need to install"),
        ({"optim": "schedule_free_adamw"}, "optim schedule_free_adamw: You need to install `schedulefree`"),
        ({"report_to": "tensorboard"}, "report_to tensorboard: TensorBoardCallback requires tensorboard"),
        ({"report_to": ["wandb"]}, "report_to wandb: WandbCallback requires wandb"),
        ({"report_to": "no_such_service"}, "no_such_service"),
        ({**LORA, "load_in_4bit": True}, "need bitsandbytes"),
    ],
)
def test_missing_packages_are_named(changes, message, data, tmp_path, monkeypatch):
    # As on a machine that has none of them, wherever the tests run.
    for module in ("trainer_optimizer", "integrations.integration_utils"):
        for name in ("bitsandbytes", "galore_torch", "schedulefree", "tensorboard", "wandb"):
            monkeypatch.setattr(f"transformers.{module}.is_{name}_available", lambda *_: False, raising=False)
    monkeypatch.setattr("otdrg_hf.training.options.importlib.util.find_spec", lambda name: None)
    assert message in refusal(tmp_path, data, **changes)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"per_device_train_batch_size": 16}, "per_device_train_batch_size 16 x 1 devices is more than the 8 studies"),
        ({"per_device_eval_batch_size": 5}, "per_device_eval_batch_size 5 x 1 devices is more than the 4 studies"),
    ],
)
def test_batches_that_the_data_do_not_fill_are_refused(changes, message, data, tmp_path):
    assert message in refusal(tmp_path, data, dataloader_drop_last=True, **changes)
    train(tmp_path, data, **changes)  # without leaving out the rest, there is one batch


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"metric_for_best_model": "eval_bleu_4"}, "eval_bleu_4 needs reports: give generate_eval_studies"),
        ({"metric_for_best_model": "ce14_micro_f1"}, "ce14_micro_f1 needs reports"),
        (
            {"metric_for_best_model": "accuracy"},
            "accuracy is not a metric of the evaluations: choose from",
        ),
        ({"metric_for_best_model": "lm_loss", "stage": "align"}, "lm_loss is not a metric"),
        ({"metric_for_best_model": "disease_loss", "stage": "warmup"}, "choose from loss, lm_loss."),
        (
            {"metric_for_best_model": "disease_micro_f1", "prediction_loss_only": True},
            "disease_micro_f1 is not a metric",
        ),
    ],
)
def test_a_figure_that_no_evaluation_gives_is_refused(changes, message, data, tmp_path):
    assert message in refusal(tmp_path, data, **{**BEST, **changes})


@pytest.mark.parametrize("figure", ["loss", "eval_lm_loss", "ot_loss", "disease_loss", "eval_disease_macro_f1"])
def test_a_figure_that_evaluations_give_chooses_the_best_checkpoint(figure, data, tmp_path):
    folder = train(tmp_path, data, **BEST, metric_for_best_model=figure)
    state = json.loads((folder / "checkpoint-2/trainer_state.json").read_text())
    logged = [entry[f"eval_{figure.removeprefix('eval_')}"] for entry in state["log_history"] if "eval_loss" in entry]
    assert state["best_metric"] == (min if figure.endswith("loss") else max)(logged)


@pytest.mark.parametrize("lora", [False, True])
def test_losses_alone_in_evaluation_train_to_the_end_and_calibrate(lora, data, tmp_path):
    folder = train(tmp_path, data, **(LORA if lora else {}), **EVALUATED, prediction_loss_only=True)
    config = json.loads((folder / ("base" if lora else "") / "config.json").read_text())
    assert len(config["score_calibration"]) == len(config["positive_thresholds"]) == 14
    assert len(config["operating_curves"]) == 13 and len(config["conformal_thresholds"]) == 14
    log = json.loads((folder / "training_log.json").read_text())
    assert any("eval_loss" in entry for entry in log) and not any("eval_disease_micro_f1" in entry for entry in log)


def test_an_adapter_is_calibrated_in_the_configuration_of_its_base(data, tmp_path):
    folder = train(tmp_path, data, **LORA)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    run_calibrate(folder, "phantom", num_studies=8, device="cpu", error_rate=0.25)
    changed = {path for path in folder.rglob("*") if path.is_file() and path.read_bytes() != before.get(path)}
    assert changed == {folder / "base/config.json"}
    model = AutoModelForImageTextToText.from_pretrained(folder)
    assert model.config.conformal_error_rate == 0.25 and model.config.operating_curves["Edema"] is not None


@pytest.mark.parametrize("lora", [False, True])
def test_a_calibration_that_fails_loses_nothing(lora, data, tmp_path, monkeypatch):
    def fail(*_):
        raise RuntimeError("no calibration")

    monkeypatch.setattr(sft, "calibrate", fail)
    with pytest.raises(RuntimeError, match="no calibration"):
        train(tmp_path, data, **(LORA if lora else {}))
    names = {path.name for path in (tmp_path / "out").iterdir()}
    weights = {"adapter_model.safetensors", "base"} if lora else {"model.safetensors", "config.json"}
    assert weights | {"training_log.json", "training_record.json", "processor_config.json"} <= names
    model = AutoModelForImageTextToText.from_pretrained(tmp_path / "out")
    assert model.config.score_calibration is None


def test_a_calibrated_model_has_the_weights_that_were_trained(data, tmp_path):
    """Also where evaluation is in bf16, for which the trainer casts its model."""
    exact = train(tmp_path, data)
    halved = train(tmp_path, data, output_dir=str(tmp_path / "halved"), bf16_full_eval=True)
    states = [OTDRGForConditionalGeneration.from_pretrained(folder).state_dict() for folder in (exact, halved)]
    for name, value in states[0].items():
        assert value.dtype == states[1][name].dtype and torch.equal(value, states[1][name]), name


def test_layers_of_the_llm_are_trained_and_saved_in_full(data, tmp_path):
    changes = {**LORA, "text_config": UNTIED, "lora_modules_to_save": ["lm_head", "norm"], "learning_rate": 0.03}
    folder = train(tmp_path, data, **changes)
    saved = json.loads((folder / "adapter_config.json").read_text())
    assert {"lm_head", "model.language_model.norm", "model.fusion"} <= set(saved["modules_to_save"])
    base = AutoModelForImageTextToText.from_pretrained(folder / "base")
    loaded = AutoModelForImageTextToText.from_pretrained(folder).eval()
    merge_adapter(folder, tmp_path / "merged")
    merged = AutoModelForImageTextToText.from_pretrained(tmp_path / "merged").eval()
    assert not torch.allclose(base.lm_head.weight, merged.lm_head.weight, atol=1e-3)
    norms = [model.model.language_model.norm.weight for model in (base, merged)]
    assert not torch.allclose(*norms, atol=1e-3)
    batch = StudyCollator(AutoProcessor.from_pretrained(folder))(tiny_rows(2))
    with torch.no_grad():
        logits = [model(**batch).logits for model in (loaded, merged)]
    torch.testing.assert_close(*logits, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"lora_modules_to_save": ["lm_head"]}, "lora_modules_to_save: the LLM's lm_head is its embeddings"),
        ({"lora_modules_to_save": ["embed_tokens"]}, "lora_modules_to_save: the LLM's lm_head is its embeddings"),
        (
            {"lora_modules_to_save": ["classifier"]},
            "lora_modules_to_save 'classifier' is nothing in the language model",
        ),
        ({"lora_modules_to_save": ["patch_embeddings"]}, "'patch_embeddings' is nothing in the language model"),
        ({"lora_target_parameters": ["experts.down_proj"]}, "lora_target_parameters 'experts.down_proj' is nothing"),
        ({"lora_modules_to_save": ["norm"], "frozen_dtype": "bfloat16"}, "which needs fp32: leave frozen_dtype out"),
    ],
)
def test_layers_that_cannot_be_trained_in_full_are_refused(changes, message, data, tmp_path):
    assert message in refusal(tmp_path, data, **LORA, **changes)


@pytest.mark.parametrize("lora", [False, True])
def test_template_and_end_of_text_are_those_of_training_and_of_what_it_saves(lora, data, tmp_path):
    template = tmp_path / "turns.jinja"
    template.write_text("{% for message in messages %}[{{ message['content'] }}]{% endfor %}answer:{{ '\\n' }}")
    folder = train(tmp_path, data, **(LORA if lora else {}), chat_template_path=str(template), eos_token="<s>")
    processor = AutoProcessor.from_pretrained(folder)
    assert processor.build_prompt(1).startswith("[View: <image>") and processor.build_prompt(1).endswith("answer:\n")
    assert processor.build_completion("Clear.").endswith("<s>")
    model = AutoModelForImageTextToText.from_pretrained(folder)
    assert processor.tokenizer.eos_token_id in model.generation_config.eos_token_id


def test_a_template_without_the_study_is_refused(data, tmp_path):
    template = tmp_path / "deaf.jinja"
    for text, message in (("Say something.", "does not show what the user says"), ("{% for %}", "cannot be used")):
        template.write_text(text)
        assert message in refusal(tmp_path, data, chat_template_path=str(template))


def test_a_checkpoint_can_be_chosen_to_go_on_from(data, tmp_path, capsys):
    folder = train(tmp_path, data, **SAVED)
    capsys.readouterr()
    train(tmp_path, data, "--resume_from_checkpoint", str(folder / "checkpoint-1"), **SAVED)
    assert f"Resuming from {folder / 'checkpoint-1'}." in capsys.readouterr().out


def test_a_run_of_another_kind_is_not_gone_on_with(data, tmp_path):
    out = {"output_dir": str(tmp_path / "align"), **SAVED}
    folder = train(tmp_path, data, stage="align", **out)
    assert "holds a run of the stage 'align': choose another" in refusal(tmp_path, data, stage="joint", **out)
    (folder / "training_record.json").unlink()  # it was stopped before its end
    assert "holds a run without use_peft: choose another" in refusal(tmp_path, data, **LORA, **out)
    train(tmp_path, data, "--resume", "false", stage="joint", **out)


def test_a_run_is_resumed_with_what_it_was_made_of_alone(data, tmp_path):
    out = {"output_dir": str(tmp_path / "run"), **SAVED}
    folder = train(tmp_path, data, **out)
    assert str(data) not in (folder / "run.json").read_text()
    for changes in (
        {"learning_rate": 1e-4},
        {"dataset": str(data / "elsewhere")},
        {"otdrg_config": {**OTDRG, "epsilon": 0.1}},
        {"finding_weight": 2.0},
        {"seed": 3},
        {"lr_scheduler_type": "cosine"},
        {"train_sampling_strategy": "group_by_length"},
    ):
        (name,) = changes
        message = f"holds a run with another {name}: choose another output_dir, or restart with --resume false."
        assert message in refusal(tmp_path, data, **{**out, **changes})
    assert "with another batch size" in refusal(tmp_path, data, **out, gradient_accumulation_steps=2)
    more = {"max_steps": 3, "eval_steps": 3, "per_device_train_batch_size": 1, "gradient_accumulation_steps": 2}
    moved = shutil.copytree(data, tmp_path / "moved" / data.name)
    train(tmp_path, moved, **{**out, **more, "load_kwargs": {"cache_dir": str(tmp_path / "elsewhere")}})
    state = json.loads((folder / "checkpoint-3/trainer_state.json").read_text())
    assert [entry["step"] for entry in state["log_history"] if "loss" in entry] == [1, 2, 3]


def test_a_run_started_anew_leaves_nothing_to_resume_of_the_run_before(data, tmp_path, capsys):
    folder = train(tmp_path, data, **SAVED)
    (folder / "checkpoint-best").mkdir()
    capsys.readouterr()
    train(tmp_path, data, "--resume", "false", max_steps=1, learning_rate=1e-4)
    assert capsys.readouterr().out.count("Removed 2 checkpoints of the run before") == 1
    assert [path.name for path in folder.glob("checkpoint-*")] == ["checkpoint-best"]


def test_image_size_of_a_checkpoint_is_not_changed_in_silence(data, tmp_path):
    folder = train(tmp_path, data, stage="align")
    start = {"model_name_or_path": str(folder), "vision_config": None, "text_config": None}
    train(tmp_path, data, output_dir=str(tmp_path / "next"), image_size=64, **start)
    (folder / "model.safetensors").unlink()
    assert "image_size is 32, but" in refusal(tmp_path, data, image_size=32, **start)


@pytest.mark.parametrize("stage", ["align", "finetune"])
def test_a_study_beyond_the_context_is_refused_before_the_first_step(stage, data, tmp_path):
    error = refusal(tmp_path, data, stage=stage, text_config={**GPT2, "n_positions": 100})
    assert "Study 'study-1' takes" in error and "more than the LLM's context of 100" in error
    train(tmp_path, data, stage=stage, text_config={**GPT2, "n_positions": 512})


def test_reports_of_an_evaluation_end_within_the_context(data, tmp_path):
    best = {**BEST, "generate_eval_studies": 4, "metric_for_best_model": "bleu_1"}
    folder = train(tmp_path, data, **best, text_config={**GPT2, "n_positions": 150})  # which has no others
    log = json.loads((folder / "training_log.json").read_text())
    assert sum("eval_bleu_1" in entry for entry in log) == 2


def test_a_dry_run_looks_at_the_context_and_the_options(data, tmp_path, capsys):
    short = {"text_config": {**GPT2, "n_positions": 100}}
    assert "Study 'study-1' takes" in refusal(tmp_path, data, "--dry_run", "true", **short)
    assert "label_smoothing_factor" in refusal(tmp_path, data, "--dry_run", "true", label_smoothing_factor=0.1)
    train(tmp_path, data, "--dry_run", "true", optim="adamw_8bit")  # packages of the machine that will train
    assert "LLM's context         2,048 tokens" in capsys.readouterr().out
