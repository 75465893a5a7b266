"""`otdrg evaluate`: scores files of reports, or first reports a split by a model and scores that."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from otdrg_hf.data.schema import require_split
from otdrg_hf.evaluation.baselines import BASELINES, CLINICAL_CONSTANTS
from otdrg_hf.evaluation.compare import check_output_paths, check_scoring, evaluate_files
from otdrg_hf.extras import require
from otdrg_hf.files import write_json
from otdrg_hf.labeling.command import load_labeler

if TYPE_CHECKING:
    from transformers import Pipeline

METRICS_FILE = "figures.json"
CHECKED = ("section", "protocol", "vocabulary", "radeval", "masks", "constant_by", "constant_candidates")


def run_evaluate(
    predictions: Sequence[Path] = (),
    references: Path | None = None,
    *,
    dataset: str | None = None,
    model: str | None = None,
    output_dir: Path = Path("evaluate_output"),
    generation: dict | None = None,
    section: str | None = None,
    labeler: str = "rules",
    weights: Path | None = None,
    device: str | None = None,
    num_bootstrap: int = 1000,
    num_neighbours: int = 0,
    scoring: dict | None = None,
    output: Path | None = None,
    csv_file: Path | None = None,
    plot: Path | None = None,
    html: Path | None = None,
    baselines_dir: Path | None = None,
    operating_points: bool = False,
    as_json: bool = False,
) -> None:
    """
    Scores systems, writes what is asked for and prints tables.

    Args:
        predictions (`Sequence[Path]`), references (`Path`, *optional*): As of [`evaluate_files`].
        dataset, model: As of [`generate_predictions`], whose predictions are scored before those of the files.
        output_dir (`Path`): For the model's predictions and their metrics.
        generation (`dict`, *optional*): Further arguments of [`generate_predictions`].
        section, num_bootstrap: As of [`evaluate_files`].
        labeler, weights, device: As of [`load_labeler`]; the model runs on the device, too.
        num_neighbours (`int`): Of a model: as of [`nearest_reports`]; 0 for no nearest-neighbour baseline.
        scoring (`dict`, *optional*): Further arguments of [`evaluate_files`].
        output, csv_file, plot, html (`Path`, *optional*): Files for all metrics as JSON and CSV, F1 of each label, and
            the page of the worst cases.
        baselines_dir (`Path`, *optional*): Folder for the reports of the baselines.
        operating_points (`bool`): Report at several operating points, too; table, JSON and plot go to `output_dir`.
        as_json (`bool`, *optional*, defaults to `False`): Print all metrics as JSON instead of the tables.

    Raises:
        ValueError: for options that do not go together, and as of the functions above.
        FileNotFoundError: for files that are not there.
        ImportError: for an optional dependency that is not there.
    """
    if model is not None and dataset is None:
        raise ValueError("--model needs --dataset, the studies that it is to report")
    if operating_points and dataset is None:
        raise ValueError("--operating_points needs --dataset: files of predictions have one operating point each")
    scoring = {"section": section, **(scoring or {})}
    if baselines_dir is not None and not scoring.get("baselines", True):
        raise ValueError(
            "--baselines_dir is for the baselines that --no_baselines leaves out: leave out one of the two"
        )
    if dataset is None:
        generated = generation or {}
        require_split(generated.get("split", "test"))
        if generated.get("num_studies") is not None or generated.get("candidates", 1) > 1 or generated.get("data_dir"):
            raise ValueError("--num_studies, --candidates and --data_dir need --dataset, the studies to report")
    if not predictions and dataset is None and not scoring.get("published") and references is None:
        raise ValueError(
            "nothing to score: give files of predictions, or --dataset for a model to report, or --references for the "
            "baselines alone"
        )
    if html is not None and not predictions and dataset is None and not scoring.get("published"):
        raise ValueError("--html shows the worst reports of a system, and there is none; give files of predictions")
    written = (output, csv_file, html, baselines_dir)
    check_output_paths(*written, plot=plot, made_later=output_dir if dataset is not None else None)
    _check_distinct(
        inputs=(
            *predictions,
            references,
            *scoring.get("published", ()),
            scoring.get("vocabulary"),
            scoring.get("training"),
        ),
        outputs=(*written[:-1], plot, *_baseline_files(baselines_dir)),
    )
    check_scoring(**{name: value for name, value in scoring.items() if name in CHECKED})
    files, label = list(predictions), load_labeler(labeler, weights, device=device)
    if dataset is not None:
        from otdrg_hf.reporting.loading import load_reporter
        from otdrg_hf.reporting.split import generate_predictions

        reporter = load_reporter(model, device)
        if operating_points:
            _check_operating_points(reporter)
        options = {"section": section or "report", "device": device, **(generation or {})}
        files.insert(0, generate_predictions(model, dataset, output_dir, reporter=reporter, **options))
        if scoring.get("baselines", True):
            scoring |= _of_training_split(reporter, dataset, options, num_neighbours, scoring)
    evaluation = evaluate_files(files, references, labeler=label, num_bootstrap=num_bootstrap, **scoring)
    for path, write in (
        (output, evaluation.write_json),
        (None if dataset is None else output_dir / METRICS_FILE, evaluation.write_json),
        (csv_file, evaluation.write_csv),
        (plot, evaluation.write_plot),
        (html, evaluation.write_html),
        (baselines_dir, evaluation.write_baselines),
    ):
        if path is not None:
            write(path)
    points = None
    if operating_points:
        from otdrg_hf.evaluation import operating_points as at

        points = at.measure_points(
            evaluation, label, model, dataset, output_dir, options, reporter=reporter, num_bootstrap=num_bootstrap
        )
        write_json(output_dir / at.RESULTS_FILE, points.to_dict())
        points.write_plot(output_dir / at.PLOT_FILE)
    # Last: a reader such as head may close the pipe, which must not cost the files.
    if as_json and points is not None:
        print(json.dumps({**evaluation.to_dict(), "operating_points": points.to_dict()}, indent=2, allow_nan=False))
    else:
        print(evaluation.json() if as_json else evaluation.text() + (points.text() if points is not None else ""))


def _check_distinct(inputs: Sequence, outputs: Sequence[Path | None]) -> None:
    """No output takes the place of a file that is read, or of another output."""
    read = {Path(path).resolve() for path in inputs if isinstance(path, str | Path)}
    written: set[Path] = set()
    for path in filter(None, outputs):
        if path.resolve() in read:
            raise ValueError(f"{path.name} is to be written and is one of the files to read; choose another name")
        if path.resolve() in written:
            raise ValueError(f"{path.name} is named for two outputs; choose another name")
        written.add(path.resolve())


def _baseline_files(folder: Path | None) -> list[Path]:
    return [] if folder is None else [folder / f"{name}.jsonl" for name in (*BASELINES, *CLINICAL_CONSTANTS)]


def _check_operating_points(reporter: "Pipeline") -> None:
    """Before anything is reported: whether the model has operating curves, and the plot can be drawn."""
    from otdrg_hf.modeling.disease_states_otdrg import thresholds_at

    require("matplotlib", "eval")
    thresholds_at("sensitive", reporter.model.config)


def _of_training_split(reporter: "Pipeline", dataset: str, options: dict, num_neighbours: int, scoring: dict) -> dict:
    """What baselines need of the other splits of the dataset that a model has reported, where it is not given."""
    from otdrg_hf.evaluation.training_split import dataset_training_reports, nearest_reports

    section, data_dir = options["section"], options.get("data_dir")
    found: dict = {}
    if scoring.get("training") is None and scoring.get("vocabulary") is None:
        found["training"] = dataset_training_reports(dataset, section, data_dir)
    if num_neighbours:
        of_studies = (options.get("split", "test"), section, data_dir, options.get("num_studies"))
        found["neighbours"] = nearest_reports(reporter, dataset, *of_studies, num_neighbours=num_neighbours)
    return found
