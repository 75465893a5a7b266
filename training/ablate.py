"""
Trains and evaluates the variants of an ablation over seeds and writes its table and plot.

    python training/ablate.py training/recipes/ablation_phantom_hard.yaml --output_dir outputs/ablation

What is done is not done again; an interrupted run resumes. Stages that variants share are trained once.
"""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer
from yaml import YAMLError

from otdrg_hf.training.ablation.evaluation import load_studies_of, train_and_report
from otdrg_hf.training.ablation.plan import Plan, read_plan
from otdrg_hf.training.ablation.plots import plot_variants
from otdrg_hf.training.ablation.table import differences, drop, markdown_table, read_result, title_of


def run_ablation(plan: Plan, output_dir: Path, jobs: int = 1) -> str:
    """
    Runs a plan and writes `table.md`, `results.json` and `variants.png` in `output_dir`.

    Returns:
        `str`: The table, a part per test split.
    """
    files = train_and_report(plan, output_dir, jobs)
    has_head = {variant.name: variant.predicts_labels for variant in plan.variants}
    compared = plan.columns[0]
    known = None if plan.protocol == "raw" else list(load_studies_of(plan, "train")[plan.section])
    options = {"protocol": plan.protocol, "vocabulary_reports": known, "meteor": "meteor" in plan.columns}
    results = {
        split: {name: read_result(paths, has_head[name], **options) for name, paths in by_variant.items()}
        for split, by_variant in files.items()
    }
    parts, record = [], {}
    for split, by_variant in results.items():
        num_studies = next(iter(by_variant.values())).statistics.num_reports
        parts.append(
            f"{split}: {num_studies} studies, {len(plan.seeds)} seeds\n\n{markdown_table(by_variant, plan.columns)}"
        )
        variants = {name: {"per_seed": result.per_seed} for name, result in by_variant.items()}
        record[split] = {"variants": variants, "differences": differences(by_variant, compared)}
    if len(plan.tests) == 2:
        parts.append(_losses(results, plan, record))
    output_dir.mkdir(parents=True, exist_ok=True)
    text = "\n\n".join(parts) + "\n"
    (output_dir / "table.md").write_text(text, encoding="utf-8")
    (output_dir / "results.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    plot_variants(results, output_dir / "variants.png", compared)
    return text


def _losses(results, plan: Plan, record: dict) -> str:
    """How much more of what they are compared by each variant loses than the first on the second split."""
    compared = plan.columns[0]
    first, second = (results[split] for split in plan.tests)
    full, *others = first
    record["losses"] = {name: drop(first[full], second[full], first[name], second[name], compared) for name in others}
    lines = [
        f"What is lost from {plan.tests[0]} to {plan.tests[1]}, {title_of(compared)}",
        "",
        f"| Variant | lost | lost by {full} | more than {full} |",
        "|---|--:|--:|--:|",
    ]
    for name, loss in record["losses"].items():
        gap = f"{loss['difference']:+.3f} [{loss['low']:+.3f}, {loss['high']:+.3f}]"
        lines.append(f"| {name} | {loss['plain_loss']:.3f} | {loss['loss']:.3f} | {gap} |")
    return "\n".join(lines)


def main(
    config: Annotated[Path, typer.Argument(help="YAML file of the ablation.", exists=True, dir_okay=False)],
    output_dir: Annotated[Path, typer.Option("--output_dir", help="For runs, predictions, table and plot.")] = Path(
        "outputs/ablation"
    ),
    dataset: Annotated[str | None, typer.Option("--dataset", help="Another dataset than the file's.")] = None,
    tests: Annotated[list[str] | None, typer.Option("--test", help="Another test split than the file's.")] = None,
    variants: Annotated[list[str] | None, typer.Option("--variant", help="Only these, and the first.")] = None,
    seeds: Annotated[list[int] | None, typer.Option("--seed", help="Only these.")] = None,
    jobs: Annotated[int, typer.Option("--jobs", min=1, help="Variants and seeds at a time, one process each.")] = 1,
) -> None:
    """Trains and evaluates variants of a model over seeds: a table with paired intervals, and a plot."""
    try:
        plan = read_plan(config, dataset, tests, seeds, variants)
        print(run_ablation(plan, output_dir, jobs))
    except (ValueError, OSError, RuntimeError, YAMLError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        raise typer.Exit(2) from None


if __name__ == "__main__":
    typer.run(main)
