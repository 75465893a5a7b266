"""
Looks into a trained model on phantoms, whose findings and places are known.

    python training/probe.py outputs/phantom_finetune --num_studies 300

Prints how well the label scores are calibrated, whether the evidence of a label lies on its sign (beside chance and
Grad-CAM), whether a report follows a label that is set by hand, and whether training has kept features apart.
"""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from otdrg_hf.training.probes.looking import look_into
from otdrg_hf.training.probes.plots import plot_figures


def main(
    model: Annotated[Path, typer.Argument(help="The model's folder.", exists=True, file_okay=False)],
    dataset: Annotated[str, typer.Option("--dataset", help="phantom or phantom_hard.")] = "phantom",
    split: Annotated[str, typer.Option("--split", help="Of the dataset.")] = "test",
    num_studies: Annotated[int, typer.Option("--num_studies", min=2, help="The first ones.")] = 300,
    output: Annotated[Path | None, typer.Option("--json", help="Write all figures here.")] = None,
    plot: Annotated[Path | None, typer.Option("--plot", help="Draw where the evidence lies, and spread, here.")] = None,
) -> None:
    """Looks into a trained model on phantoms, whose findings and places are known."""
    try:
        figures = look_into(model, dataset, split, num_studies)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        raise typer.Exit(2) from None
    print(figures.text())
    if output is not None:
        output.write_text(json.dumps(figures.to_dict(), indent=1) + "\n", encoding="utf-8")
    if plot is not None:
        plot_figures(figures, plot)


if __name__ == "__main__":
    typer.run(main)
