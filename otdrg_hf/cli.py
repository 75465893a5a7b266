"""The `otdrg` command: each subcommand parses its options and calls the module that does the work."""

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
CANDIDATES = "So many reports each, all but one sampled; best is the one that states the predicted labels."
POINT_HELP = 'balanced, sensitive, specific, recall=0.95, precision=0.9, or by label: {"Edema": {"recall": 0.95}}.'
PointOption = Annotated[str | None, typer.Option("--operating_point", help=POINT_HELP)]
ModelOption = Annotated[str | None, typer.Option("--model", help="Folder or Hub id. Default: the bundled demo model.")]
# Options of evaluate that need --dataset and have a default: only here is it known whether they were given.
OF_DATASET = ("output_dir", "batch_size", "max_new_tokens", "neighbours")


@app.command()
def report(
    images: Annotated[
        list[str], typer.Argument(metavar="IMAGE...", help="Images, a study each: files, folders, 'patterns*' or URLs.")
    ],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="JSONL to write; an interrupted run resumes.")
    ] = None,
    model: ModelOption = None,
    max_new_tokens: Annotated[int, typer.Option("--max_new_tokens", help="Bound on a report's length.")] = 256,
    batch_size: Annotated[int, typer.Option("--batch_size", min=1, help="Images that run together.")] = 1,
    device: Annotated[str | None, typer.Option("--device", help="cpu, cuda, cuda:1, mps. Default: the best.")] = None,
    dtype: Annotated[str | None, typer.Option("--dtype", help="float32, bfloat16, float16 or auto.")] = None,
    candidates: Annotated[int, typer.Option("--candidates", min=1, help=CANDIDATES)] = 1,
    operating_point: PointOption = None,
    begins_with: Annotated[
        str | None, typer.Option("--begins_with", help="The beginning of each report, kept as it is and continued.")
    ] = None,
    impression_of: Annotated[
        str | None, typer.Option("--impression_of", help="Write the impression of these findings.")
    ] = None,
    stream: Annotated[bool, typer.Option("--stream", help="Print one image's report as it is written.")] = False,
    refuse_unfamiliar: Annotated[
        bool, typer.Option("--refuse_unfamiliar", help="Leave out images unlike those the model was trained on.")
    ] = False,
    sr: Annotated[Path | None, typer.Option("--sr", help="Of one DICOM image: structured report to write.")] = None,
    sc: Annotated[Path | None, typer.Option("--sc", help="Of one DICOM image: heat maps to write, as DICOM.")] = None,
    fhir: Annotated[Path | None, typer.Option("--fhir", help="Of one image: FHIR R4B report to write, JSON.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Write the report of each image, with the label states behind it."""
    from otdrg_hf.reporting.command import run_report, run_report_streaming

    if stream and (sr or sc or fhir):
        raise ValueError("--stream writes no --sr, --sc or --fhir.")
    if stream and (len(images) > 1 or output or as_json or candidates > 1):
        raise ValueError("--stream prints the text of one image, without -o, --json and --candidates.")
    if stream and refuse_unfamiliar:
        raise ValueError("--stream prints a report before it is known whether to refuse it: leave one of the two out.")
    if stream:
        drafts = {"begins_with": begins_with, "impression_of": impression_of}
        failures = run_report_streaming(images[0], model, device, dtype, max_new_tokens, operating_point, **drafts)
    elif sr or sc or fhir:
        from otdrg_hf.hospital.command import run_documents

        if output:
            raise ValueError("--sr, --sc and --fhir are of one image, without -o.")
        options = {"max_new_tokens": max_new_tokens, "candidates": candidates, "operating_point": operating_point}
        options |= {"begins_with": begins_with, "impression_of": impression_of, "refuse_unfamiliar": refuse_unfamiliar}
        failures = run_documents(images, sr, sc, fhir, model, device, dtype, as_json, **options)
    else:
        options = {"max_new_tokens": max_new_tokens, "batch_size": batch_size, "candidates": candidates}
        options |= {"begins_with": begins_with, "impression_of": impression_of, "operating_point": operating_point}
        options |= {"refuse_unfamiliar": refuse_unfamiliar}
        failures = run_report(images, output, model, device, dtype, as_json, **options)
    raise typer.Exit(1 if failures else 0)


@app.command()
def watch(
    folder: Annotated[Path | None, typer.Option("--folder", help="Watch this folder for DICOM files.")] = None,
    dicomweb: Annotated[
        str | None, typer.Option("--dicomweb", help="URL of a PACS to watch; with --folder, to store reports in.")
    ] = None,
    out: Annotated[
        str | None,
        typer.Option("--out", help="dicomweb or a folder. Default: the PACS watched, or ./otdrg_reports for a folder."),
    ] = None,
    ledger: Annotated[
        Path | None, typer.Option("--ledger", help="What was stored. Default: otdrg_watch.jsonl with the reports.")
    ] = None,
    model: ModelOption = None,
    device: Annotated[str | None, typer.Option("--device", help="cpu, cuda, cuda:1, mps. Default: the best.")] = None,
    since: Annotated[str | None, typer.Option("--since", help="Of a PACS: studies from this day on, YYYYMMDD.")] = None,
    interval: Annotated[float, typer.Option("--interval", min=0.1, help="Seconds between two looks.")] = 10.0,
    once: Annotated[bool, typer.Option("--once", help="Report what is there, then end.")] = False,
    batch_size: Annotated[int, typer.Option("--batch_size", min=1, help="Images that run together.")] = 8,
    max_new_tokens: Annotated[int, typer.Option("--max_new_tokens", min=1, help="Bound on a report's length.")] = 256,
) -> None:
    """Report new radiographs of a folder or PACS as DICOM structured reports, each once, until interrupted."""
    from otdrg_hf.hospital.command import run_watch

    options = {"since": since, "interval": interval, "once": once}
    options |= {"batch_size": batch_size, "max_new_tokens": max_new_tokens}
    raise typer.Exit(1 if run_watch(folder, dicomweb, out, ledger, model, device, **options) else 0)


@app.command()
def demo(
    images: Annotated[list[str] | None, typer.Argument(metavar="[IMAGE]...", help="Images to report as well.")] = None,
    output_dir: Annotated[Path, typer.Option("--output_dir", help="For pictures and demo.json.")] = Path("demo_output"),
    num_studies: Annotated[int, typer.Option("--num_studies", min=0, help="Phantoms behind the table; 0: none.")] = 200,
    model: ModelOption = None,
    as_json: JsonOption = False,
) -> None:
    """Report three unseen synthetic phantoms, and images of yours, with evidence pictures and a table of metrics."""
    from otdrg_hf.demo.command import run_demo

    run_demo(images or [], output_dir, num_studies, model, as_json)


@app.command()
def label(
    reports: Annotated[Path, typer.Argument(help="JSONL or CSV with 'report' (and 'id'), or text, a report a line.")],
    labeler: Annotated[str, typer.Option("--labeler", help="rules or chexbert.")] = "rules",
    weights: Annotated[
        Path | None, typer.Option("--weights", help="Of chexbert: chexbert.pth or its safetensors.")
    ] = None,
    explain: Annotated[bool, typer.Option("--explain", help="Add the words behind each label (rules only).")] = False,
    num_proc: Annotated[int, typer.Option("--num_proc", min=1, help="Processes (rules only).")] = 1,
    device: Annotated[str | None, typer.Option("--device", help="Of chexbert: cpu, cuda, cuda:1, mps.")] = None,
) -> None:
    """Read the 14 disease labels off reports; one JSON line a report."""
    from otdrg_hf.labeling.command import run_label

    run_label(reports, labeler, weights=weights, explain=explain, num_proc=num_proc, device=device)


@app.command()
def prepare(
    source: Annotated[str, typer.Argument(help="iu_xray, mimic_cxr, or folder: R2Gen-format or metadata.jsonl.")],
    data_dir: Annotated[Path, typer.Argument(help="The download, or the folder.")],
    output_dir: Annotated[Path, typer.Argument(help="For Parquet shards, summary.json and rejected.jsonl.")],
    annotation: Annotated[
        Path | None, typer.Option("--annotation", help="IU X-Ray: R2Gen annotation.json to split by.")
    ] = None,
    reports: Annotated[Path | None, typer.Option("--reports", help="The reports, if not in DATA_DIR.")] = None,
    images: Annotated[Path | None, typer.Option("--images", help="The images, if not in DATA_DIR.")] = None,
    projections: Annotated[
        Path | None, typer.Option("--projections", help="IU X-Ray, also R2Gen's: csv of uid, filename, projection.")
    ] = None,
    labels: Annotated[
        str, typer.Option("--labels", help="auto: MIMIC's table, else the labeler. labeler: always the labeler.")
    ] = "auto",
    image_size: Annotated[
        int | None, typer.Option("--image_size", help="Embed images at this shorter side; else by path.")
    ] = None,
    num_proc: Annotated[int, typer.Option("--num_proc", min=1, help="Processes.")] = 1,
    plot: Annotated[bool, typer.Option("--plot", help="Draw label_prevalence.png in OUTPUT_DIR.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Turn a download of IU X-Ray or MIMIC-CXR into a dataset that loads in one line; an interrupted run resumes."""
    from otdrg_hf.data.preparing import command

    command.run(
        source,
        output_dir,
        data_dir,
        as_json,
        annotation=annotation,
        reports=reports,
        images=images,
        projections=projections,
        labels=labels,
        image_size=image_size,
        num_proc=num_proc,
        plot=plot,
    )


@app.command()
def evaluate(
    context: typer.Context,
    predictions: Annotated[
        list[Path] | None,
        typer.Argument(metavar="PRED.jsonl", help="A system each: id, generated_text and reference a line."),
    ] = None,
    references: Annotated[
        Path | None,
        typer.Option("--references", help="id and reference, where PRED.jsonl has none; or an R2Gen annotation.json."),
    ] = None,
    published: Annotated[
        list[Path] | None,
        typer.Option("--published", help="CSV or JSON of another system's reports, joined by study id. Repeatable."),
    ] = None,
    dataset: Annotated[
        str | None, typer.Option("--dataset", help="Report these studies first: a folder, phantom or a prepared name.")
    ] = None,
    model: ModelOption = None,
    split: Annotated[str, typer.Option("--split", help="Split of the dataset.")] = "test",
    data_dir: Annotated[
        Path | None, typer.Option("--data_dir", help="Where iu_xray or mimic_cxr was prepared.")
    ] = None,
    output_dir: Annotated[
        Path, typer.Option("--output_dir", help="For the model's predictions and metrics; an interrupted run resumes.")
    ] = Path("evaluate_output"),
    num_studies: Annotated[
        int | None, typer.Option("--num_studies", min=1, help="Only so many studies, from the first.")
    ] = None,
    batch_size: Annotated[int, typer.Option("--batch_size", min=1, help="Studies that run together.")] = 8,
    device: Annotated[str | None, typer.Option("--device", help="cpu, cuda, cuda:1, mps. Default: the best.")] = None,
    max_new_tokens: Annotated[int, typer.Option("--max_new_tokens", min=1, help="Bound on a report's length.")] = 256,
    candidates: Annotated[int, typer.Option("--candidates", min=1, help=CANDIDATES)] = 1,
    section: Annotated[
        str | None, typer.Option("--section", help="findings, impression or report (both). Default: texts as given.")
    ] = None,
    protocol: Annotated[str, typer.Option("--protocol", help="raw, r2gen-iu or r2gen-mimic.")] = "raw",
    vocabulary: Annotated[
        Path | None, typer.Option("--vocabulary", help="Training reports behind <unk>: R2Gen annotation.json or JSONL.")
    ] = None,
    masks: Annotated[
        str, typer.Option("--masks", help="XXXX and ___ in the texts: keep (as R2Gen) or remove.")
    ] = "keep",
    training_reports: Annotated[
        Path | None,
        typer.Option(
            "--training_reports", help="To choose constants from: annotation.json or JSONL. Default: what is at hand."
        ),
    ] = None,
    no_baselines: Annotated[bool, typer.Option("--no_baselines", help="Score the systems alone.")] = False,
    constant_by: Annotated[str, typer.Option("--constant_by", help="Score that chooses the constant.")] = "bleu_4",
    constant_candidates: Annotated[
        int, typer.Option("--constant_candidates", min=1, help="Choose it among the first so many training texts.")
    ] = 5000,
    neighbours: Annotated[
        int, typer.Option("--neighbours", min=0, help="With --dataset: search so many training studies; 0: none.")
    ] = 1000,
    baselines_dir: Annotated[
        Path | None, typer.Option("--baselines_dir", help="Write the baselines' reports here, a file each.")
    ] = None,
    labeler: Annotated[str, typer.Option("--labeler", help="rules or chexbert.")] = "rules",
    weights: Annotated[
        Path | None, typer.Option("--weights", help="Of chexbert: chexbert.pth or its safetensors.")
    ] = None,
    radeval: Annotated[
        list[str] | None,
        typer.Option("--radeval", help="A metric of radeval: radgraph, ratescore, green, ... Repeatable."),
    ] = None,
    num_bootstrap: Annotated[
        int, typer.Option("--num_bootstrap", min=0, help="Resamples behind intervals and paired tests; 0: neither.")
    ] = 1000,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Write all metrics here, as JSON.")] = None,
    csv_file: Annotated[Path | None, typer.Option("--csv", help="Write all metrics here, one per row.")] = None,
    plot: Annotated[Path | None, typer.Option("--plot", help="Draw F1 of each label here: .png, .pdf or .svg.")] = None,
    html: Annotated[Path | None, typer.Option("--html", help="Write a page of the worst cases here.")] = None,
    operating_points: Annotated[
        bool, typer.Option("--operating_points", help="With --dataset: precision and recall at eight points as well.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Score reports: BLEU, ROUGE-L, CIDEr, METEOR and clinical efficacy, with intervals; several files are compared.

    With --dataset a model reports the studies of a split first; its predictions are kept in --output_dir. Next to each
    system stand baselines that any has to beat: constants, shuffled references, the nearest training study's report.
    """
    from otdrg_hf.evaluation.command import run_evaluate

    if dataset is None:
        _refuse_given(context, OF_DATASET if labeler == "chexbert" else (*OF_DATASET, "device"), "--dataset")
    generation = {"split": split, "data_dir": data_dir, "num_studies": num_studies}
    generation |= {"batch_size": batch_size, "max_new_tokens": max_new_tokens, "candidates": candidates}
    run_evaluate(
        predictions or (),
        references,
        dataset=dataset,
        model=model,
        output_dir=output_dir,
        generation=generation,
        section=section,
        labeler=labeler,
        weights=weights,
        device=device,
        num_bootstrap=num_bootstrap,
        num_neighbours=neighbours,
        scoring={
            "protocol": protocol,
            "vocabulary": vocabulary,
            "radeval": radeval or (),
            "published": published or (),
            "split": split,
            "masks": masks,
            "training": training_reports,
            "baselines": not no_baselines,
            "constant_by": constant_by,
            "constant_candidates": constant_candidates,
        },
        output=output,
        csv_file=csv_file,
        plot=plot,
        html=html,
        baselines_dir=baselines_dir,
        operating_points=operating_points,
        as_json=as_json,
    )


@app.command()
def rexrank(
    input_json: Annotated[
        Path | None, typer.Argument(metavar="INPUT.json", help="Studies in ReXrank's format.", show_default=False)
    ] = None,
    output_json: Annotated[
        Path | None, typer.Argument(metavar="OUTPUT.json", help="The same with model_prediction.", show_default=False)
    ] = None,
    img_root_dir: Annotated[
        Path | None, typer.Option("--img_root_dir", help="The folder that the image_path of a study is in.")
    ] = None,
    model: ModelOption = None,
    sections: Annotated[
        str, typer.Option("--sections", help="The board: findings or findings_impression.")
    ] = "findings",
    submission: Annotated[
        Path | None, typer.Option("--submission", help="Write a submission's files to this new folder, nothing else.")
    ] = None,
    radcliq: Annotated[bool, typer.Option("--radcliq", help="RadCliQ-v1 as well; needs radeval 2.2.")] = False,
    batch_size: Annotated[int, typer.Option("--batch_size", min=1, help="Studies that run together.")] = 8,
    max_new_tokens: Annotated[int, typer.Option("--max_new_tokens", min=1, help="Bound on a report's length.")] = 256,
    device: Annotated[str | None, typer.Option("--device", help="cpu, cuda, cuda:1, mps. Default: the best.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Write the predictions that the ReXrank leaderboard takes, check and score them; an interrupted run resumes."""
    from otdrg_hf.evaluation.rexrank.command import run_rexrank

    options = {"batch_size": batch_size, "max_new_tokens": max_new_tokens, "device": device, "as_json": as_json}
    boards = {"sections": sections, "submission": submission, "radcliq": radcliq}
    run_rexrank(input_json, output_json, img_root_dir, model=model, **boards, **options)


@app.command()
def card(
    source: Annotated[Path, typer.Argument(help="A model's folder, one of otdrg prepare, or: phantom, phantom_hard.")],
    evaluation: Annotated[Path | None, typer.Option("--evaluation", help="What otdrg evaluate -o wrote.")] = None,
    evaluated_on: Annotated[str | None, typer.Option("--evaluated_on", help="The dataset that it is about.")] = None,
    split: Annotated[str | None, typer.Option("--split", help="The split that it is about.")] = None,
    system: Annotated[str | None, typer.Option("--system", help="Which system of the evaluation, of several.")] = None,
    license: Annotated[str | None, typer.Option("--license", help="Such as apache-2.0. Default: the data's.")] = None,
    repo_id: Annotated[str | None, typer.Option("--repo_id", help="The model's name in the card: org/model.")] = None,
    studies: Annotated[list[str] | None, typer.Option("--studies", help="Of phantoms: train=1000, and so on.")] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Default: README.md in the folder.")] = None,
) -> None:
    """Write the card of a model or a dataset from what training, evaluation and preparation recorded."""
    from otdrg_hf.hub.command import run_card

    run_card(
        source,
        evaluation=evaluation,
        evaluated_on=evaluated_on,
        split=split,
        system=system,
        license=license,
        repo_id=repo_id,
        studies=studies,
        output=output,
    )


@app.command()
def calibrate(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="The model's folder; its config.json is written.")],
    dataset: Annotated[str, typer.Option("--dataset", help="Studies to fit on: a folder, phantom or a prepared name.")],
    split: Annotated[str, typer.Option("--split", help="Of the dataset; not the one to test on.")] = "validation",
    test_split: Annotated[
        str | None, typer.Option("--test_split", help="Measure the plausible states on this split as well.")
    ] = None,
    data_dir: Annotated[
        Path | None, typer.Option("--data_dir", help="Where iu_xray or mimic_cxr was prepared.")
    ] = None,
    num_studies: Annotated[
        int | None, typer.Option("--num_studies", min=1, help="Only so many studies, from the first.")
    ] = None,
    batch_size: Annotated[int, typer.Option("--batch_size", min=1, help="Studies that run together.")] = 8,
    device: Annotated[str | None, typer.Option("--device", help="cpu, cuda, cuda:1, mps. Default: the best.")] = None,
    error_rate: Annotated[
        float, typer.Option("--error_rate", help="How often the plausible states may leave out the true one.")
    ] = 0.1,
    refit_scores: Annotated[
        bool, typer.Option("--refit_scores", help="Refit scores and balanced thresholds that are there already.")
    ] = False,
    sentences: Annotated[
        bool,
        typer.Option("--sentences/--no_sentences", help="Report the studies to fit the confidence in sentences on."),
    ] = True,
    as_json: JsonOption = False,
) -> None:
    """Fit operating points, plausible states, confidence in sentences and which images are familiar; weights stay."""
    from otdrg_hf.training.calibrate import run_calibrate

    options = {"split": split, "test_split": test_split, "data_dir": data_dir, "num_studies": num_studies}
    options |= {
        "batch_size": batch_size,
        "device": device,
        "error_rate": error_rate,
        "refit_scores": refit_scores,
        "sentences": sentences,
        "as_json": as_json,
    }
    run_calibrate(model, dataset, **options)


@app.command()
def merge(
    adapter_dir: Annotated[Path, typer.Argument(help="The folder that training with --use_peft wrote.")],
    model_dir: Annotated[Path, typer.Argument(help="The folder to write, not there yet.")],
) -> None:
    """Make a whole model of a LoRA adapter and its base, ready for its card and the Hub."""
    from otdrg_hf.hub.command import merge_adapter

    merge_adapter(adapter_dir, model_dir)


@app.command()
def push(
    model_dir: Annotated[Path, typer.Argument(help="The model's folder, with its card.")],
    repo_id: Annotated[str, typer.Argument(help="org/model")],
    private: Annotated[bool, typer.Option("--private", help="Only for those that you let in.")] = False,
    revision: Annotated[str | None, typer.Option("--revision", help="Branch; made if need be. Default: main.")] = None,
    data_may_be_public: Annotated[
        bool, typer.Option("--data_may_be_public", help="No agreement about the data forbids a public model.")
    ] = False,
    message: Annotated[str, typer.Option("--message", help="Of the commit.")] = "Upload OTDRG model",
    endpoint: Annotated[
        bool, typer.Option("--endpoint", help="Add handler.py and requirements.txt, for Inference Endpoints.")
    ] = False,
    space: Annotated[
        str | None, typer.Option("--space", help="Make this Space as well, a page that runs the model: org/name.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry_run", help="List what would go; touch no network.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Upload model, processor, code and card to the Hub; refuses credentialed data and pickles."""
    from otdrg_hf.hub.command import run_push

    options = {"private": private, "revision": revision, "data_may_be_public": data_may_be_public}
    options |= {"endpoint": endpoint, "space": space}
    run_push(model_dir, repo_id, message=message, dry_run=dry_run, as_json=as_json, **options)


@app.command(name="app")
def web_page(
    model: ModelOption = None,
    host: Annotated[str, typer.Option("--host", help="Another address than loopback lets other machines in.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="0 takes one that is free.")] = 7860,
    device: Annotated[str | None, typer.Option("--device", help="cpu, cuda, cuda:1, mps. Default: the best.")] = None,
) -> None:
    """Open a page to drop images on: the report as it is written, labels to correct, evidence; on this machine only."""
    from otdrg_hf.app.server import run_app

    run_app(model, host, port, device)


@app.command()
def serve(
    model: ModelOption = None,
    host: Annotated[str, typer.Option("--host", help="Another address than loopback lets other machines in.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="0 takes one that is free.")] = 8000,
    api_key_file: Annotated[
        Path | None, typer.Option("--api_key_file", help="Keys, one a line, of which a request has to bring one.")
    ] = None,
    device: Annotated[str | None, typer.Option("--device", help="cpu, cuda, cuda:1, mps. Default: the best.")] = None,
    dtype: Annotated[str | None, typer.Option("--dtype", help="float32, bfloat16, float16 or auto.")] = None,
    max_batch: Annotated[int, typer.Option("--max_batch", min=1, help="Studies that run together.")] = 32,
    max_queue: Annotated[int, typer.Option("--max_queue", min=1, help="Studies that wait; more get 429.")] = 256,
    max_mb: Annotated[float, typer.Option("--max_mb", min=0.001, help="Bound on a request's body.")] = 64,
    max_megapixels: Annotated[float, typer.Option("--max_megapixels", min=0.001, help="Bound on an image.")] = 40,
    max_new_tokens: Annotated[int, typer.Option("--max_new_tokens", min=1, help="Bound on a report's length.")] = 256,
    timeout: Annotated[float, typer.Option("--timeout", min=1, help="Seconds until a report is written.")] = 120,
    allow_urls: Annotated[
        bool, typer.Option("--allow_urls", help="Fetch images by their address, if it is a public one.")
    ] = False,
) -> None:
    """Answer HTTP requests with reports: OpenAI's chat completions, and JSON; needs the extra `serve`."""
    from otdrg_hf.serving.command import run_serve
    from otdrg_hf.serving.limits import Limits

    limits = Limits(
        max_bytes=int(max_mb * 1e6),
        max_body_bytes=int(8 * max_mb * 1e6),
        max_pixels=int(max_megapixels * 1e6),
        max_new_tokens=max_new_tokens,
        max_batch=max_batch,
        max_queue=max_queue,
        request_seconds=timeout,
        allow_urls=allow_urls,
    )
    run_serve(model, host, port, api_key_file, device, dtype, limits)


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []})
def train(context: typer.Context) -> None:
    """Train, as `accelerate launch training/sft.py` does: otdrg train --config RECIPE.yaml [--field value]."""
    import subprocess

    from otdrg_hf.extras import require

    require("trl", extra="train")
    import torch
    from accelerate.commands.config.config_args import default_config_file

    if torch.accelerator.device_count() < 2 and not os.path.isfile(default_config_file):
        # One process needs no launcher, which would show a traceback of its own behind each mistake of a user.
        from otdrg_hf.training.sft import main as train_here

        train_here(context.args)
        return
    # Left to itself, accelerate gives a process on the CPU a single thread.
    environment = {"OMP_NUM_THREADS": str(os.cpu_count()), **os.environ}
    command = [sys.executable, "-m", "accelerate.commands.launch", "--quiet", "-m", "otdrg_hf.training.sft"]
    raise typer.Exit(subprocess.run([*command, *context.args], env=environment).returncode)


def _refuse_given(context: typer.Context, names: tuple[str, ...], needed: str) -> None:
    """Refuses options that were given, where they would be ignored for want of another."""
    given = [f"--{name}" for name in names if context.get_parameter_source(name).name != "DEFAULT"]
    if given:
        raise ValueError(f"{' and '.join(given)} would change nothing without {needed}")


def _hide_progress_bars() -> None:
    """Of loading and downloading. transformers is not imported for this: --help and some commands do without it."""
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    if "transformers" in sys.modules:  # and has read its environment
        from transformers.utils import logging

        logging.disable_progress_bar()


def main() -> None:
    """Runs the command; an error that a user can cause is one line on stderr and exit code 2."""
    _hide_progress_bars()
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
