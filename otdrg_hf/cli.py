"""The `otdrg` command: each subcommand parses its options and calls the module that does the work."""

import json
import os
import sys
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    name="otdrg",
    help="Radiology report generation with optimal transport. Research software, not for clinical use.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

JsonOption = Annotated[bool, typer.Option("--json", help="Answer in JSON.")]
ModelOption = Annotated[str | None, typer.Option("--model", help="Folder or Hub id. Default: the bundled demo model.")]


@app.command()
def report(
    images: Annotated[list[str], typer.Argument(metavar="IMAGE...", help="Films, a study each: paths or URLs.")],
    model: ModelOption = None,
    max_new_tokens: Annotated[int, typer.Option("--max_new_tokens", help="Bound on a report's length.")] = 256,
    batch_size: Annotated[int, typer.Option("--batch_size", help="Studies that run together.")] = 1,
    device: Annotated[str | None, typer.Option("--device", help="cpu, cuda, cuda:1, mps. Default: the best.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Write the report of each film, with the label states behind it."""
    from otdrg_hf.reporting import report_images

    failures = 0
    for answer in report_images(images, model, max_new_tokens, batch_size, device):
        failures += "error" in answer
        if "error" in answer and not as_json:
            print(f"error: {answer['error']}", file=sys.stderr)
        else:
            print(json.dumps(answer) if as_json else _report_text(answer), flush=True)
    raise typer.Exit(1 if failures else 0)


def _report_text(answer: dict) -> str:
    stated = [
        f"  {f['label']:<28}{f['state']:<10}{f['score']:.2f}" for f in answer["findings"] if f["state"] != "blank"
    ]
    return "\n".join([f"{answer['image']}: {answer['generated_text']}", *stated, ""])


@app.command()
def demo(
    images: Annotated[list[str] | None, typer.Argument(metavar="[IMAGE]...", help="Films to report as well.")] = None,
    output_dir: Annotated[Path, typer.Option("--output_dir", help="For pictures and demo.json.")] = Path("demo_output"),
    num_studies: Annotated[int, typer.Option("--num_studies", min=0, help="Phantoms behind the table; 0: none.")] = 200,
    model: ModelOption = None,
    as_json: JsonOption = False,
) -> None:
    """Report three unseen synthetic phantoms, and films of yours, with evidence pictures and a table of figures."""
    from otdrg_hf.demo.run import demo_text, run_demo

    result = run_demo(images or [], output_dir, num_studies, model)
    print(json.dumps(result) if as_json else demo_text(result, num_studies))


@app.command()
def label(
    reports: Annotated[Path, typer.Argument(help="JSONL with a 'report' (and 'id') a line, or text, a report a line.")],
    labeler: Annotated[str, typer.Option("--labeler", help="rules or chexbert.")] = "rules",
    weights: Annotated[Path | None, typer.Option("--weights", help="chexbert.pth or its safetensors.")] = None,
    explain: Annotated[bool, typer.Option("--explain", help="Add the words behind each label (rules only).")] = False,
) -> None:
    """Read the 14 disease labels off reports; one JSON line a report."""
    from otdrg_hf.label_command import label_file

    for row in label_file(reports, labeler, weights, explain):
        print(json.dumps(row))


@app.command()
def prepare(
    source: Annotated[str, typer.Argument(help="iu_xray, mimic_cxr or folder.")],
    data_dir: Annotated[Path, typer.Argument(help="The download, or the folder.")],
    output_dir: Annotated[Path, typer.Argument(help="For Parquet shards, summary.json and rejected.jsonl.")],
    annotation: Annotated[Path | None, typer.Option("--annotation", help="R2Gen annotation.json to split by.")] = None,
    image_size: Annotated[int | None, typer.Option("--image_size", help="Embed films with this shorter side.")] = None,
    num_proc: Annotated[int, typer.Option("--num_proc", min=1, help="Processes.")] = 1,
    plot: Annotated[bool, typer.Option("--plot", help="Plot label prevalence.")] = False,
) -> None:
    """Make a dataset that loads in one line of a download of IU X-Ray or MIMIC-CXR; goes on where it was cut off."""
    from otdrg_hf.data import prepare_dataset

    summary = prepare_dataset(
        source, output_dir, data_dir, annotation=annotation, image_size=image_size, num_proc=num_proc, plot=plot
    )
    print(json.dumps(summary, indent=2))


@app.command()
def evaluate(
    predictions: Annotated[
        list[Path], typer.Argument(help="JSONL with id, generated_text and (here or in) reference.")
    ],
    references: Annotated[Path | None, typer.Option("--references", help="JSONL with id and reference.")] = None,
    protocol: Annotated[str, typer.Option("--protocol", help="raw, r2gen-iu or r2gen-mimic.")] = "raw",
    num_bootstrap: Annotated[int, typer.Option("--num_bootstrap", min=0, help="Resamples.")] = 1000,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write all figures here.")] = None,
    csv_file: Annotated[Path | None, typer.Option("--csv", help="Write a table here.")] = None,
    plot: Annotated[Path | None, typer.Option("--plot", help="Per-label F1 with intervals, a PNG.")] = None,
    html: Annotated[Path | None, typer.Option("--html", help="The worst cases side by side.")] = None,
) -> None:
    """Score reports: BLEU, ROUGE-L, CIDEr, METEOR and clinical efficacy, with intervals; several files are compared."""
    from otdrg_hf.metrics.compare import check_output_paths, evaluate_files

    check_output_paths(json_file, csv_file, html, plot=plot)
    evaluation = evaluate_files(predictions, references, protocol=protocol, num_bootstrap=num_bootstrap)
    print(evaluation.text())
    for path, write in (
        (json_file, evaluation.write_json),
        (csv_file, evaluation.write_csv),
        (plot, evaluation.write_plot),
        (html, evaluation.write_html),
    ):
        if path is not None:
            write(path)


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []})
def train(context: typer.Context) -> None:
    """Train, as `accelerate launch training/sft.py` does: otdrg train --config RECIPE.yaml [--field value]."""
    import subprocess

    from otdrg_hf.extras import require

    require("trl", extra="train")
    # Left to itself, accelerate gives a process on the CPU a single thread.
    environment = {"OMP_NUM_THREADS": str(os.cpu_count()), **os.environ}
    command = [sys.executable, "-m", "accelerate.commands.launch", "-m", "otdrg_hf.training.sft", *context.args]
    raise typer.Exit(subprocess.run(command, env=environment).returncode)


def main() -> None:
    """Runs the command; what a user can mend is one line on stderr and exit code 2."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    try:
        app()
    except (ValueError, ImportError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
