"""
Reports a split with as many processes as there are devices, and scores the reports.

    accelerate launch --num_processes 8 -m otdrg_hf.training.generate --model outputs/iu_xray_finetune \\
        --dataset data/iu_xray --split test --section findings --output_dir outputs/iu_xray_test

Each process writes its share as it goes, and an interrupted run resumes, with another number of processes if need
be. The shares become one predictions.jsonl, the same as `otdrg evaluate --dataset` writes with one process.
"""

import sys
from datetime import timedelta
from pathlib import Path
from typing import Annotated

import torch
import typer
from accelerate import PartialState

from otdrg_hf.evaluation.command import METRICS_FILE
from otdrg_hf.evaluation.compare import check_scoring, evaluate_files
from otdrg_hf.evaluation.training_split import dataset_training_reports
from otdrg_hf.reporting.predictions import merge_shares, share_files, share_folder
from otdrg_hf.reporting.split import write_share

# The shares of slow and fast processes end hours apart.
PATIENCE = timedelta(days=2)


def generate(
    model: Annotated[str, typer.Option("--model", help="Folder or Hub id, of an adapter too.")],
    dataset: Annotated[str, typer.Option("--dataset", help="A folder, phantom or a prepared name.")],
    output_dir: Annotated[Path, typer.Option("--output_dir", help="For predictions and metrics.")],
    split: Annotated[str, typer.Option("--split", help="Of the dataset.")] = "test",
    data_dir: Annotated[Path | None, typer.Option("--data_dir", help="Of iu_xray or mimic_cxr.")] = None,
    section: Annotated[str, typer.Option("--section", help="findings, impression or report (both).")] = "report",
    num_studies: Annotated[int | None, typer.Option("--num_studies", min=1, help="The first ones only.")] = None,
    batch_size: Annotated[int, typer.Option("--batch_size", min=1, help="Studies that run together.")] = 8,
    max_new_tokens: Annotated[int, typer.Option("--max_new_tokens", min=1, help="Bound on a report's length.")] = 256,
    candidates: Annotated[int, typer.Option("--candidates", min=1, help="Sampled reports each; the best is kept.")] = 1,
    protocol: Annotated[str, typer.Option("--protocol", help="raw, r2gen-iu or r2gen-mimic.")] = "raw",
    cpu: Annotated[bool, typer.Option("--cpu", help="Although there is a GPU.")] = False,
) -> None:
    """Reports a split with all processes of `accelerate launch`, and scores the reports."""
    cpu = cpu or not torch.cuda.is_available()
    state = PartialState(cpu=cpu, timeout=PATIENCE)
    check_scoring(section=section, protocol=protocol, vocabulary=None, radeval=())
    options = {"split": split, "data_dir": data_dir, "section": section, "num_studies": num_studies}
    options |= {"batch_size": batch_size, "max_new_tokens": max_new_tokens, "candidates": candidates}
    options |= {"device": str(state.device)}
    _, ids = write_share(
        model,
        dataset,
        share_folder(output_dir, state.process_index),
        share=(state.process_index, state.num_processes),
        others=share_files(output_dir),
        ready=state.wait_for_everyone,
        **options,
    )
    state.wait_for_everyone()
    if state.is_main_process:
        predictions = merge_shares(output_dir, ids)
        training = dataset_training_reports(dataset, section, data_dir)
        evaluation = evaluate_files([predictions], section=section, protocol=protocol, training=training)
        print(evaluation.text())
        evaluation.write_json(output_dir / METRICS_FILE)
    state.wait_for_everyone()
    state.destroy_process_group()


def main() -> None:
    """The command line; mistakes of a user are one line on stderr and exit code 2."""
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(generate)
    try:
        app()
    except (ValueError, OSError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
