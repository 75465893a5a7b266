"""Stops a policy that has collapsed: one report for all studies, or no entropy left to sample from."""

from transformers import TrainerCallback


class CollapseStop(TrainerCallback):
    """
    Args:
        min_distinct_share (`float`): Stop where fewer of the sampled reports than this share are distinct.
        min_entropy_share (`float`): Stop where the entropy falls below this share of the first that was logged.

    Attributes:
        reason (`str`, *optional*): Why the run was stopped.
    """

    def __init__(self, min_distinct_share: float, min_entropy_share: float):
        self.min_distinct_share, self.min_entropy_share = min_distinct_share, min_entropy_share
        self.reason: str | None = None

    def on_log(self, args, state, control, logs=None, **kwargs):
        if not logs or "distinct" not in logs or "entropy" not in logs:
            return
        first = next(entry["entropy"] for entry in state.log_history if "entropy" in entry)
        if logs["distinct"] < self.min_distinct_share:
            self.reason = f"only {logs['distinct']:.1%} of the sampled reports are distinct"
        elif logs["entropy"] < self.min_entropy_share * first:
            self.reason = f"the entropy fell from {first:.3f} to {logs['entropy']:.3f}"
        if self.reason:
            control.should_training_stop, control.should_save = True, False
