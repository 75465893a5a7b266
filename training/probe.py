"""
Probes a trained model on phantoms, whose findings and their positions are known.

    python training/probe.py outputs/phantom_finetune --num_studies 300

Prints how well the label scores are calibrated, whether the evidence of a label lies on its sign (with chance and
Grad-CAM to compare), whether a report follows an overridden label, and whether training has kept features apart.
"""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from otdrg_hf.training.probes.probing import probe_model
from otdrg_hf.training.probes.results import plot_results


def main(
    model: Annotated[Path, typer.Argument(help="The model's folder.", exists=True, file_okay=False)],
    dataset: Annotated[str, typer.Option("--dataset", help="phantom or phantom_hard.")] = "phantom",
    split: Annotated[str, typer.Option("--split", help="Of the dataset.")] = "test",
    num_studies: Annotated[int, typer.Option("--num_studies", min=2, help="The first ones.")] = 300,
    output: Annotated[Path | None, typer.Option("--json", help="Write all results here.")] = None,
    plot: Annotated[Path | None, typer.Option("--plot", help="Draw where the evidence lies, and spread, here.")] = None,
) -> None:
    """Probes a trained model on phantoms, whose findings and their positions are known."""
    try:
        results = probe_model(model, dataset, split, num_studies)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        raise typer.Exit(2) from None
    print(results.text())
    if output is not None:
        output.write_text(json.dumps(results.to_dict(), indent=1) + "\n", encoding="utf-8")
    if plot is not None:
        plot_results(results, plot)


if __name__ == "__main__":
    typer.run(main)
