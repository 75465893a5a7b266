"""The `otdrg` command: each subcommand parses its options and calls the module that does the work."""

import json
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
    stated = [f"  {f['label']:<28}{f['state']:<10}{f['score']:.2f}" for f in answer["findings"] if f["state"] != "blank"]
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


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []})
def train(context: typer.Context) -> None:
    """Train, as `accelerate launch training/sft.py` does: otdrg train --config RECIPE.yaml [--field value]."""
    import subprocess

    from otdrg_hf.extras import require

    require("trl", extra="train")
    command = [sys.executable, "-m", "accelerate.commands.launch", "-m", "otdrg_hf.training.sft", *context.args]
    raise typer.Exit(subprocess.run(command).returncode)


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
