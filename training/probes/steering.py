"""Does the report follow an overridden label, and does the rest of it stay the same?"""

from dataclasses import dataclass
from difflib import SequenceMatcher

from otdrg_hf.labeling import LABELS, STATES, label_reports
from otdrg_hf.labeling.sections import split_sections, split_sentences


@dataclass(frozen=True)
class Steered:
    """
    A report before and after a label was set.

    Attributes:
        label (`str`), state (`str`): What was set, `"positive"` or `"negative"`.
        before (`str`), after (`str`): The reports.
    """

    label: str
    state: str
    before: str
    after: str

    def obeyed(self) -> bool:
        """Present: stated as positive. Absent: denied, or not stated."""
        [codes] = label_reports([self.after])
        written = STATES[codes[LABELS.index(self.label)]]
        return written == "positive" if self.state == "positive" else written in ("negative", "blank")

    def words_changed(self) -> int:
        """Words that differ outside the sentences about the label in either report."""
        before, after = (_words_of_the_rest(text, self.label) for text in (self.before, self.after))
        blocks = SequenceMatcher(None, before, after, autojunk=False).get_matching_blocks()
        same = sum(block.size for block in blocks)
        return max(len(before), len(after)) - same


def _words_of_the_rest(text: str, label: str) -> list[str]:
    sentences = [
        text[first + start : first + end]
        for _, first, last in split_sections(text)
        for start, end in split_sentences(text[first:last])
    ]
    _, mentions = label_reports(sentences, explain=True)
    # A normal study is reported as one until a label is set, and the other way round.
    spoken = {label, "No Finding"}
    return [
        word
        for sentence, found in zip(sentences, mentions, strict=True)
        if not spoken & found.keys()
        for word in sentence.lower().split()
    ]
