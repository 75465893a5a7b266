"""The transfer check of clinical-reward training: reports of studies that the reward never saw, before and after."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers import TrainerCallback

from otdrg_hf.data import load_study_dataset
from otdrg_hf.data.phantom import PHANTOM_NAMES
from otdrg_hf.files import write_json
from otdrg_hf.metrics.report_card import ReportCard, make_report_card
from otdrg_hf.reporting.loading import plain_name
from otdrg_hf.training.report_metrics import ReportMetrics
from otdrg_hf.training.reward_arguments import RewardArguments

SCORES = (
    *("ce13_micro_f1", "ce13_micro_precision", "ce13_micro_recall", "ce13_macro_f1", "ce13_example_f1"),
    *("bleu_4", "rouge_l", "cider", "laterality_agreement"),
)
NUM_BOOTSTRAP, CONFIDENCE = 1000, 0.95
BEFORE_FILE = "reports_before.json"
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
        processor, max_new_tokens: Of [`ReportMetrics`].
    """

    def __init__(self, watched: Sequence[Watched], processor, max_new_tokens: int):
        self.watched = watched
        self.writers = [ReportMetrics(processor, each.section, len(each.studies), max_new_tokens) for each in watched]
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
        """Of each watched dataset, its scores before and after and what they differ by, with paired intervals."""
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
        }
