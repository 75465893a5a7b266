"""What the probes of a model found."""

from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Figures:
    """
    Attributes:
        calibration_error (`float`): Expected calibration error of the scores, averaged over labels.
        pointing (`dict[str, dict[str, float]]`): Per label with a true positive, and as `"mean"`, the share of peaks
            inside a box of `evidence`, of `grad_cam` and by `chance`, and the `count` of true positives.
        steering (`dict[str, float]`): `present` and `absent`, the share of reports that obey; `words`, the mean number
            of words that change in the rest of the report; `count`.
        spread (`dict[str, dict[str, float]]`): `before` and `after` training: `effective_rank` of patch features and
            `label_cosine`, the mean cosine between the phrases of presence.
    """

    calibration_error: float
    pointing: dict[str, dict[str, float]]
    steering: dict[str, float]
    spread: dict[str, dict[str, float]]

    def to_dict(self) -> dict:
        return asdict(self)

    def text(self) -> str:
        """The figures as a table for a terminal."""
        lines = [
            f"calibration error of the scores  {self.calibration_error:.3f}",
            "",
            "peak of the map in the sign's box",
        ]
        lines.append(f"  {'':<28}{'evidence':>9}{'Grad-CAM':>9}{'chance':>9}{'n':>6}")
        for label, row in self.pointing.items():
            lines.append(
                f"  {label:<28}{row['evidence']:>9.3f}{row['grad_cam']:>9.3f}{row['chance']:>9.3f}{row['count']:>6.0f}"
            )
        steering = self.steering
        lines += [
            "",
            f"a label set by hand ({steering['count']:.0f} reports)",
            f"  present: stated              {steering['present']:.3f}",
            f"  absent: denied or not stated {steering['absent']:.3f}",
            f"  other words that change, on average {steering['words']:.1f}",
            "",
            "features                      before   after training",
        ]
        for name, title in (("effective_rank", "effective rank of patches"), ("label_cosine", "cosine between labels")):
            lines.append(f"  {title:<26}{self.spread['before'][name]:>8.2f}{self.spread['after'][name]:>8.2f}")
        return "\n".join(lines)
