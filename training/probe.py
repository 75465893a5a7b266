"""
Probes a trained model: are the labels behind its reports right about how sure they are, and do the reports follow them?

    python training/probe.py outputs/phantom_finetune
    python training/probe.py outputs/iu_xray_finetune --dataset data/iu_xray --section findings --num_studies 590

Prints how well the label scores are calibrated, whether a report follows an overridden label, and all true ones, and
whether training has kept features apart; on phantoms, whose signs have known positions, also whether the evidence of a
label lies on its sign (with chance and Grad-CAM to compare).
"""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from otdrg_hf.reporting.predictions import check_section
from otdrg_hf.training.probes.probing import probe_model
from otdrg_hf.training.probes.results import plot_results


def main(
    model: Annotated[Path, typer.Argument(help="The model's folder.", exists=True, file_okay=False)],
    dataset: Annotated[str, typer.Option("--dataset", help="As of `otdrg evaluate`.")] = "phantom",
    split: Annotated[str, typer.Option("--split", help="Of the dataset.")] = "test",
    data_dir: Annotated[
        Path | None, typer.Option("--data_dir", help="Where iu_xray or mimic_cxr was prepared.")
    ] = None,
    section: Annotated[str, typer.Option("--section", help="Whose labels are the true ones.")] = "report",
    candidates: Annotated[int, typer.Option("--candidates", min=1, help="As of `otdrg evaluate`.")] = 1,
    num_studies: Annotated[int, typer.Option("--num_studies", min=2, help="The first ones.")] = 300,
    output: Annotated[Path | None, typer.Option("--json", help="Write all results here.")] = None,
    plot: Annotated[Path | None, typer.Option("--plot", help="Draw where the evidence lies, and spread, here.")] = None,
) -> None:
    """Probes a trained model: its label scores, the evidence behind them, and whether its reports follow its labels."""
    try:
        check_section(section)
        options = {"data_dir": data_dir, "section": section, "candidates": candidates}
        results = probe_model(model, dataset, split, num_studies, **options)
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
