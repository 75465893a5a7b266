"""The table of labels: state, score, and buttons by which a state that the user knows is given."""

from collections.abc import Sequence
from html import escape

EMPTY = '<p class="otdrg-hint">The 14 labels appear with the report.</p>'


def label_table(findings: list[dict], given: dict[str, str], states: list[str], disagreements: Sequence = ()) -> str:
    """
    HTML of the table.

    Args:
        findings (`list[dict]`): `label`, `state` and `score` of each label, as the pipeline gives them.
        given (`dict[str, str]`): States by label that the user gave; these rows are marked.
        states (`list[str]`): The states to choose from.
        disagreements (`list[dict]`, *optional*): As [`~reviewing.find_disagreements`] gives them; these rows say what
            the report states.
    """
    written = {row["label"]: row["written"] for row in disagreements}
    rows = "".join(
        _row(index, finding, finding["label"] in given, states, written.get(finding["label"]))
        for index, finding in enumerate(findings)
    )
    return (
        '<table class="otdrg-labels"><thead><tr><th scope="col">Label</th><th scope="col">State</th>'
        f'<th scope="col">Score</th></tr></thead><tbody>{rows}</tbody></table>'
        '<p class="otdrg-hint">Score: the probability of positive that the model predicts. Blank: not mentioned. '
        "A state that you choose overrides the prediction when the report is written again.</p>"
    )


def _row(index: int, finding: dict, is_given: bool, states: list[str], written: str | None) -> str:
    label, state, score = escape(finding["label"]), escape(finding["state"]), finding["score"]
    choices = "".join(
        f'<label><input type="radio" name="otdrg-state-{index}" value="{choice}"'
        f"{' checked' if choice == state else ''}><span>{choice}</span></label>"
        for choice in map(escape, states)
    )
    withdraw = '<button type="button" class="otdrg-given" title="Let the model predict it again">given ×</button>'
    doubt = f"<small>but {escape(written)} in the report</small>" if written else ""
    return (
        f'<tr data-label="{label}" data-state="{state}" data-given="{str(is_given).lower()}">'
        f'<th scope="row">{label}{withdraw}{doubt}</th>'
        f'<td><fieldset class="otdrg-states"><legend>State of {label}</legend>{choices}</fieldset></td>'
        f'<td class="otdrg-score"><span aria-hidden="true"><i style="width:{100 * score:.0f}%"></i></span>'
        f"{score:.2f}</td></tr>"
    )
