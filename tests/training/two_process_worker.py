"""Run by torch.distributed in each of two processes: trains every case and saves what each process ends with."""

import os
import sys
from pathlib import Path

import torch
from tiny_training import small_chunks, speak_up, tiny_model, tiny_studies, tiny_trainer

from otdrg_hf.training.report_metrics import ReportMetrics

CASES = {"align": {"stage": "align"}, "joint": {"stage": "joint"}, "lora": {"stage": "finetune", "lora": True}}
CASES["chunks"] = CASES["joint"]


def train(folder: Path, case: str, batch_size: int):
    """Two steps of plain gradient descent, in which a wrong scale of the loss shows as a wrong step."""
    options = {"optim": "sgd", "learning_rate": 0.1, "max_grad_norm": 0.0, "max_steps": 2}
    built = tiny_model()
    trainer = tiny_trainer(
        folder,
        tiny_studies(8),
        tiny_studies(8),
        built=built,
        report_metrics=ReportMetrics(built[1], "report", 5, max_new_tokens=4),
        per_device_train_batch_size=batch_size,
        # Stalls, or raises, if a stage leaves a parameter that it trains without a gradient.
        ddp_find_unused_parameters=False,
        eval_strategy="steps",
        eval_steps=2,
        **options,
        **CASES[case],
    )
    trainer.train()
    return trainer


def write_reports(folder: Path) -> list[str]:
    """Reports of five studies, which two processes cannot share evenly, by a model that tells studies apart."""
    built = tiny_model()
    speak_up(built[0])
    trainer = tiny_trainer(folder, tiny_studies(8), built=built)
    return ReportMetrics(built[1], "report", 5, max_new_tokens=8).write_reports(trainer, tiny_studies(5))


if __name__ == "__main__":
    for case in CASES:
        with small_chunks(case == "chunks"):
            trainer = train(Path(sys.argv[1], case), case, batch_size=2)
        rank = trainer.accelerator.process_index
        trained = {name: value for name, value in trainer.model.named_parameters() if value.requires_grad}
        torch.save((trained, trainer.state.log_history), Path(sys.argv[1], f"{case}-{rank}.pt"))
    torch.save(write_reports(Path(sys.argv[1], "reports")), Path(sys.argv[1], f"reports-{rank}.pt"))
    torch.distributed.barrier()
    # Ended in the ordinary way, the threads of gloo abort a process now and then; all is written by here.
    sys.stdout.flush()
    os._exit(0)
