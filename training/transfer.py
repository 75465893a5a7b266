"""
The transfer check of clinical-reward training: reports of studies that the reward never saw, before and after.

    python training/transfer.py OUTPUT_DIR [OUTPUT_DIR ...]

prints what runs gained and lost, on average over runs that differ in their seed, say.
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset
from transformers import TrainerCallback

from otdrg_hf.data import load_study_dataset
from otdrg_hf.data.phantom import PHANTOM_NAMES
from otdrg_hf.files import write_json
from otdrg_hf.hub.provenance import transfer_line
from otdrg_hf.metrics.bootstrap import Statistics, resampled_figures
from otdrg_hf.metrics.clinical import FINDINGS, count_scores, finding_errors, is_positive
from otdrg_hf.metrics.report_card import ReportCard, make_report_card
from otdrg_hf.reporting.loading import plain_name
from otdrg_hf.training.feature_cache import FeatureCache
from otdrg_hf.training.report_metrics import ReportMetrics
from otdrg_hf.training.reward_arguments import RewardArguments

SCORES = (
    *("ce13_micro_f1", "ce13_micro_precision", "ce13_micro_recall", "ce13_macro_f1", "ce13_example_f1"),
    *("bleu_4", "rouge_l", "cider", "laterality_agreement"),
)
NUM_BOOTSTRAP, CONFIDENCE = 1000, 0.95
BEFORE_FILE, TRANSFER_FILE = "reports_before.json", "transfer.json"
COUNTS = "counts"
SECTIONS = ("report", "findings", "impression")


@dataclass(frozen=True)
class Watched:
    """
    Studies whose reports are scored before, during and after.

    Attributes:
        name (`str`): Dataset, split and section, without a path.
        studies (`Dataset`): All of which have the section.
        section (`str`): The column that is the reference.
    """

    name: str
    studies: Dataset
    section: str

    def card(self, reports: Sequence[str], num_bootstrap: int = 0) -> ReportCard:
        references = list(self.studies[self.section])
        return make_report_card(list(reports), references, meteor=False, num_bootstrap=num_bootstrap)


def load_watched(args: RewardArguments, validation: Dataset) -> list[Watched]:
    """
    The validation studies of a run and what its `watch` names.

    Raises:
        ValueError: for a dataset, a split or a section that is not there.
    """
    own = validation.select(range(min(args.watch_studies, len(validation))))
    watched = [Watched(f"{plain_name(args.dataset)} validation {args.target}", own, args.target)]
    for wanted in args.watch:
        dataset, split, section, *more = [*wanted.split(":"), "", ""]
        split, section = split or "test", section or args.target
        if any(more) or section not in SECTIONS:
            raise ValueError(f"watch {wanted!r} is not DATASET, DATASET:SPLIT or DATASET:SPLIT:SECTION.")
        both_phantoms = {dataset, args.dataset} <= set(PHANTOM_NAMES)
        options = args.load_kwargs if dataset == args.dataset or both_phantoms else {}
        options = {**options, "num_studies": args.watch_studies, "having": section}
        studies = load_study_dataset(dataset, split=split, **options)
        watched.append(Watched(f"{plain_name(dataset)} {split} {section}", studies, section))
    names = [each.name for each in watched]
    if len(set(names)) < len(names):
        raise ValueError(f"watch names a dataset twice: {', '.join(names)}.")
    return watched


class TransferWatch(TrainerCallback):
    """
    Scores the reports of watched studies before training, at each checkpoint and, by [`TransferWatch.compare`], after.

    Args:
        watched (`Sequence[Watched]`): The first of which is of the run's own data.
        processor, max_new_tokens, features: Of [`ReportMetrics`].
    """

    def __init__(
        self, watched: Sequence[Watched], processor, max_new_tokens: int, features: FeatureCache | None = None
    ):
        self.watched = watched
        self.writers = [
            ReportMetrics(processor, each.section, len(each.studies), max_new_tokens, features) for each in watched
        ]
        self.before: dict[str, list[str]] = {}
        self.trainer: Any = None

    def read_before(self, output_dir: str) -> None:
        """
        The reports that the model wrote when an interrupted run began.

        Raises:
            ValueError: if they are of other studies.
        """
        path = Path(output_dir, BEFORE_FILE)
        self.before = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        counts = {each.name: len(each.studies) for each in self.watched}
        if {name: len(reports) for name, reports in self.before.items()} != counts:
            raise ValueError(
                f"{output_dir} holds an interrupted run that watched other studies: resume it with the same watch, "
                "watch_studies and eval_studies, or restart with --resume false."
            )

    def on_train_begin(self, args, state, control, **kwargs):
        if not self.before:
            self.before = self._write()
            if state.is_world_process_zero:
                write_json(Path(args.output_dir, BEFORE_FILE), self.before)
        if state.global_step == 0:
            self._log(self.before)

    def on_save(self, args, state, control, **kwargs):
        if state.global_step < state.max_steps:  # afterwards is later
            self._log(self._write())

    def compare(self) -> list[dict[str, Any]]:
        """
        Of each watched dataset, its scores before and after and what they differ by, with paired intervals; and, as
        `"counts"`, what [`difference_over_runs`] needs of its studies.
        """
        after = self._write()
        self._log(after)
        return [self._difference(each, self.before[each.name], after[each.name]) for each in self.watched]

    def _write(self) -> dict[str, list[str]]:
        reports = {}
        for each, writer in zip(self.watched, self.writers, strict=True):
            reports[each.name] = writer.write_reports(self.trainer, each.studies)
        return reports

    def _log(self, reports: dict[str, list[str]]) -> None:
        for each in self.watched:
            scores = each.card(reports[each.name]).figures
            self.trainer.log({f"watch/{each.name}/{name}": scores[name] for name in SCORES if scores[name] is not None})

    def _difference(self, watched: Watched, before: list[str], after: list[str]) -> dict[str, Any]:
        first, last = (watched.card(reports, NUM_BOOTSTRAP) for reports in (before, after))
        return {
            "name": watched.name,
            "studies": len(watched.studies),
            "before": {name: first.figures[name] for name in SCORES},
            "after": {name: last.figures[name] for name in SCORES},
            "difference": {name: last.resampled.difference(first.resampled, name, CONFIDENCE) for name in SCORES},
            COUNTS: {"before": finding_counts(first).tolist(), "after": finding_counts(last).tolist()},
        }


def finding_counts(card: ReportCard) -> np.ndarray:
    """Findings of each report that are true positives, false positives and false negatives, `[N, 3]`."""
    found, true = (is_positive(states)[:, FINDINGS] for states in (card.prediction_labels, card.reference_labels))
    wrong, missed = finding_errors(card.prediction_labels, card.reference_labels)
    return np.stack([(found & true).sum(1), wrong, missed], axis=1)


def difference_over_runs(runs: Sequence[Sequence[dict[str, Any]]]) -> list[dict[str, Any]]:
    """
    What CE13 micro-F1 differs by on average over runs, with intervals over studies, which are resampled together.

    Args:
        runs (`Sequence[Sequence[dict]]`): What [`TransferWatch.compare`] gave of each run.

    Returns:
        `list[dict]`: As [`~hub.provenance.transfer_line`] takes them, for each dataset that all runs have watched.

    Raises:
        ValueError: if runs have watched other studies of a dataset, or are of a version that kept no counts.
    """
    by_name = [{each["name"]: each for each in run} for run in runs]
    shared = [name for name in by_name[0] if all(name in run for run in by_name)]
    return [
        {"name": name, "difference": {"ce13_micro_f1": _mean_difference(name, [run[name] for run in by_name])}}
        for name in shared
    ]


def _mean_difference(name: str, runs: Sequence[dict[str, Any]]) -> dict[str, float | None]:
    if not all(COUNTS in run for run in runs):
        raise ValueError(f"{TRANSFER_FILE} is of a version that kept no counts of studies: run the training again.")
    counts = [np.array(run[COUNTS][time]) for run in runs for time in ("before", "after")]  # each [N, 3]
    positives = [each[:, 0] + each[:, 2] for each in counts]  # of the references
    if not all(np.array_equal(each, positives[0]) for each in positives):
        raise ValueError(f"The runs have not watched the same studies of {name}.")

    def figures(totals: np.ndarray, num_studies: int) -> dict[str, np.ndarray]:
        hits, wrong, missed = np.moveaxis(totals.reshape(*totals.shape[:-1], len(runs), 2, 3), -1, 0)
        _, _, f1 = count_scores(hits, wrong, missed)  # [..., runs, 2]
        return {"difference": (f1[..., 1] - f1[..., 0]).mean(-1)}

    columns = np.concatenate(counts, axis=1).astype(np.float64)  # [N, 6 * runs]
    found = resampled_figures(Statistics(columns, figures), NUM_BOOTSTRAP, seed=0).with_intervals(CONFIDENCE)
    return {"difference": found["difference"], "low": found["difference_low"], "high": found["difference_high"]}


def main(folders: Sequence[str]) -> None:
    """The command line; mistakes of a user are one line on stderr and exit code 2."""
    try:
        if not folders:
            raise ValueError("Name the output_dir of one or more runs of training/grpo.py.")
        runs = [json.loads(Path(folder, TRANSFER_FILE).read_text(encoding="utf-8")) for folder in folders]
        compared = difference_over_runs(runs)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    print(f"{len(runs)} {'run' if len(runs) == 1 else 'runs'}. {transfer_line(compared)}")


if __name__ == "__main__":
    main(sys.argv[1:])
