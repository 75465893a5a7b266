"""What each stage moves and leaves alone, what it logs, and that the step is the same however the batch is cut."""

import pytest
import torch
from tiny_runs import UNTIED, write_recipe
from tiny_training import RESNET, tiny_model, tiny_studies, tiny_trainer, write_study_folder

from otdrg_hf.training.arguments import RecipeParser
from otdrg_hf.training.sft import set_up
from otdrg_hf.training.shown_labels import ChangedReports, ShownLabels
from otdrg_hf.training.stages import apply_stage

LOSSES = ("lm_loss", "ot_loss", "disease_loss")
ALIGN = ("vision_tower", "patch_projection", "label_encoder", "alignment", "disease_head")
FINETUNE = ("language_model", "patch_projection", "label_encoder", "alignment", "disease_head", "fusion")
TRAINED = {"align": ALIGN, "finetune": FINETUNE, "joint": {*ALIGN, *FINETUNE}}


def snapshot(model) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().clone() for name, tensor in [*model.named_parameters(), *model.named_buffers()]}


def moved(model, before: dict[str, torch.Tensor]) -> set[str]:
    after = snapshot(model)
    assert after.keys() == before.keys()
    return {name for name in before if not torch.equal(before[name], after[name])}


@pytest.mark.parametrize("stage", TRAINED)
def test_a_stage_moves_what_it_trains_and_nothing_else(stage, studies, tmp_path):
    trainer = tiny_trainer(tmp_path, studies, stage=stage)
    model = trainer.model
    expected = {
        name
        for name, _ in model.named_parameters()
        # The pooler of a ViT is not on the way to any output.
        if name.split(".")[1] in TRAINED[stage] and ".pooler." not in name
    }
    assert {name for name, parameter in model.named_parameters() if parameter.requires_grad} == expected
    assert any(".pooler." in name for name, _ in model.named_parameters())
    before = snapshot(model)
    trainer.train()
    assert moved(model, before) == expected


def test_lora_moves_adapters_and_bridges_alone(studies, tmp_path):
    trainer = tiny_trainer(tmp_path, studies, stage="finetune", lora=True)
    model = trainer.model
    bridges = ("patch_projection", "label_encoder", "alignment", "disease_head", "fusion")
    adapters = {name for name, _ in model.named_parameters() if ".lora_" in name}
    assert len(adapters) == 2 * 2 * 7  # A and B of the seven linear layers of both LLM layers
    assert all(".language_model." in name for name in adapters)
    copies = {name for name, _ in model.named_parameters() if ".modules_to_save." in name}
    assert {name.split(".modules_to_save.")[0].split(".")[-1] for name in copies} == set(bridges)
    before = snapshot(model)
    trainer.train()
    assert moved(model, before) == adapters | copies


@pytest.mark.parametrize("stage, moves", [("align", True), ("finetune", False)])
def test_batch_norm_statistics_move_only_where_the_encoder_is_trained(stage, moves, studies, tmp_path):
    trainer = tiny_trainer(tmp_path, studies, stage=stage, built=tiny_model(RESNET))
    statistics = {name for name, _ in trainer.model.named_buffers() if ".vision_tower." in name}
    assert any("running_mean" in name for name in statistics)
    before = snapshot(trainer.model)
    trainer.train()
    assert moved(trainer.model, before) & statistics == (statistics if moves else set())


def test_lora_is_for_finetuning_only(studies, tmp_path):
    with pytest.raises(ValueError, match="use_peft.*finetune"):
        tiny_trainer(tmp_path, studies, stage="align", lora=True)


@pytest.mark.parametrize("stage", ["align", "joint"])
def test_losses_are_logged_apart(stage, studies, tmp_path):
    trainer = tiny_trainer(tmp_path, studies, studies, stage=stage, max_steps=2, eval_strategy="steps", eval_steps=2)
    trainer.train()
    train = next(entry for entry in trainer.state.log_history if "loss" in entry)
    evaluation = next(entry for entry in trainer.state.log_history if "eval_loss" in entry)
    losses = LOSSES[stage == "align" :]
    config = trainer.model.config
    weights = {"lm_loss": 1, "ot_loss": config.ot_loss_weight, "disease_loss": config.disease_loss_weight}
    assert train["loss"] == pytest.approx(sum(weights[name] * train[name] for name in losses), rel=1e-4)
    assert evaluation["eval_loss"] == pytest.approx(
        sum(weights[name] * evaluation[f"eval_{name}"] for name in losses), rel=1e-4
    )
    assert {"eval_disease_micro_f1", "eval_disease_macro_f1"} <= evaluation.keys()
    if stage == "align":
        assert not {"lm_loss", "eval_lm_loss"} & {*train, *evaluation}


def with_other_labels(studies):
    labels = [[(state + 1) % 4 for state in row] for row in studies["disease_labels"]]
    feature = studies.features["disease_labels"]
    return studies.remove_columns("disease_labels").add_column("disease_labels", labels, feature=feature)


def test_evaluation_predicts_the_labels(studies, tmp_path):
    trainer = tiny_trainer(tmp_path, studies, studies, learning_rate=3e-2)
    trainer.train()  # Until now the label tokens hardly matter to the report.
    true, false = (trainer.evaluate(data) for data in (studies, with_other_labels(studies)))
    assert false["eval_lm_loss"] == true["eval_lm_loss"]
    assert false["eval_disease_loss"] != true["eval_disease_loss"]
    assert false["eval_ot_loss"] != true["eval_ot_loss"]
    # In training the given labels do reach the report, so the equality above is not for want of influence.
    model, batch = trainer.model.eval(), trainer.data_collator([studies[index] for index in range(4)])
    given = [model(**{**batch, "disease_labels": (batch["disease_labels"] + step) % 4}).lm_loss for step in (0, 1)]
    assert given[0] != given[1]


def one_step(path, studies, batch, accumulation, **options):
    trainer = tiny_trainer(
        path,
        studies,
        per_device_train_batch_size=batch,
        gradient_accumulation_steps=accumulation,
        max_steps=2,
        optim="sgd",
        learning_rate=0.1,
        max_grad_norm=0.0,
        **options,
    )
    trainer.train()
    return trainer, [entry for entry in trainer.state.log_history if "loss" in entry]


@pytest.mark.parametrize("stage, lora", [("align", False), ("joint", False), ("finetune", True)])
def test_accumulated_steps_equal_one_large_batch(stage, lora, studies, tmp_path):
    split, split_log = one_step(tmp_path, studies, 1, 4, stage=stage, lora=lora)
    whole, whole_log = one_step(tmp_path, studies, 4, 1, stage=stage, lora=lora)
    for one, other in zip(split_log, whole_log, strict=True):
        for name in ("loss", *LOSSES[stage == "align" :]):
            assert one[name] == pytest.approx(other[name], abs=1e-4), name
    for (name, one), other in zip(split.model.named_parameters(), whole.model.parameters(), strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=0, msg=name)


@pytest.mark.parametrize("stage, lora", [("joint", False), ("finetune", True)])
def test_resumed_training_ends_where_an_unbroken_one_does(stage, lora, studies, tmp_path):
    # What the LLM is shown of the labels is drawn, which has to be resumed too.
    shown = ShownLabels(0.3, 0.3, 0.3, ChangedReports(studies["report"]))
    options = {"stage": stage, "lora": lora, "shown": shown, "save_strategy": "steps", "save_steps": 2}
    unbroken = tiny_trainer(tmp_path, studies, built=tiny_model(), **options)
    unbroken.train()
    # What an adapter is put on must be the same; everything else comes from the checkpoint.
    start = tiny_model(seed=0 if lora else 1)
    resumed = tiny_trainer(tmp_path, studies, built=start, **options)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    pairs = zip(unbroken.model.state_dict().items(), resumed.model.state_dict().values(), strict=True)
    for (name, one), other in pairs:
        if ".pooler." not in name:
            torch.testing.assert_close(one, other, atol=1e-6, rtol=0, msg=name)


def test_a_finished_run_takes_no_further_step(studies, tmp_path):
    # In the middle of an epoch, at a rate that is not 0.
    options = {"save_strategy": "steps", "save_steps": 1, "save_total_limit": 1, "lr_scheduler_type": "constant"}
    finished = tiny_trainer(tmp_path, studies, max_steps=1, **options)
    finished.train()
    again = tiny_trainer(tmp_path, studies, built=tiny_model(seed=1), max_steps=1, **options)
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-1"))
    assert again.state.global_step == 1 and [path.name for path in tmp_path.glob("checkpoint-*")] == ["checkpoint-1"]
    for (name, one), other in zip(finished.model.named_parameters(), again.model.parameters(), strict=True):
        if ".pooler." not in name:
            assert torch.equal(one, other), name


def test_a_batch_larger_than_the_data_still_trains(tmp_path):
    trainer = tiny_trainer(tmp_path, tiny_studies(3), per_device_train_batch_size=8, max_steps=1)
    assert trainer.train().training_loss > 0


@pytest.mark.parametrize("stage", ["align", "joint"])
def test_a_vision_encoder_rests_where_it_is_told_to(stage, studies, tmp_path):
    model, _ = tiny_model()
    frozen = apply_stage(model, stage, freeze_vision=True)
    trained = {name.split(".")[1] for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trained == set(TRAINED[stage]) - {"vision_tower"}
    assert model.model.vision_tower in frozen


def test_parts_learn_at_rates_of_their_own(studies, tmp_path):
    rates = {"vision_tower": 1e-4, "language_model": 1e-3}
    trainer = tiny_trainer(tmp_path, studies, learning_rates=rates, weight_decay=0.1)
    names = {parameter: name for name, parameter in trainer.model.named_parameters()}
    optimizer = trainer.create_optimizer()
    seen = {}
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            seen[names[parameter]] = (group["lr"], group["weight_decay"])
    assert seen.keys() == {name for name, parameter in trainer.model.named_parameters() if parameter.requires_grad}
    for name, (rate, decay) in seen.items():
        expected = next((rates[part] for part in rates if part in name), trainer.args.learning_rate)
        assert rate == expected, name
        assert (decay > 0) == (name in trainer.get_decay_parameter_names(trainer.model)), name


def test_the_rate_of_the_llm_is_that_of_its_untied_output_as_well(tmp_path):
    data = write_study_folder(tmp_path, train=4, validation=2)
    recipe = write_recipe(tmp_path, data, text_config=UNTIED, learning_rate=1e-3, text_learning_rate=1e-5)
    trainer = set_up(*RecipeParser().parse_args_and_config(["--config", recipe]))
    names = {parameter: name for name, parameter in trainer.model.named_parameters()}
    of_llm = ("model.language_model.", "lm_head.")
    groups = trainer.create_optimizer().param_groups
    rates = {names[parameter]: group["lr"] for group in groups for parameter in group["params"]}
    assert "lm_head.weight" in rates
    assert rates == {name: 1e-5 if name.startswith(of_llm) else 1e-3 for name in rates}
