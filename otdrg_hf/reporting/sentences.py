"""The sentences of a report: what each states of the labels, what speaks for it, and how sure that is."""

import math
import re
from bisect import bisect_right
from collections.abc import Collection, Iterator, Mapping, Sequence

from otdrg_hf.labeling import LABELS, Mention, label_reports
from otdrg_hf.labeling.sections import read_header, split_sections, split_sentences
from otdrg_hf.reporting.review import PRESENT

_PRECEDENCE = ("positive", "uncertain", "negative")  # of what one sentence says of a label, as within a report
_STOPS = re.compile(r"[.!?]+")
_LEAST = 1e-4  # scores are rounded to it


def read_sentences(
    text: str,
    findings: Sequence[dict],
    *,
    tokens: Sequence[tuple[int, float]] | None = None,
    calibration: Mapping[str, float] | None = None,
    draft_length: int = 0,
    overridden: Collection[str] = (),
    evidence: Collection[str] | None = None,
) -> list[dict]:
    """
    Reads the sentences of a report, in the order of the text.

    Args:
        text (`str`): The report.
        findings (`Sequence[dict]`): `label`, `state` and `score` of each label, as the pipeline answers them.
        tokens (`Sequence[tuple[int, float]]`, *optional*): Of each token, the character of `text` where it ends, and
            its log-probability by the model.
        calibration (`Mapping[str, float]`, *optional*): `config.sentence_calibration`, see
            [`fit_sentence_calibration`].
        draft_length (`int`, *optional*, defaults to 0): So many characters at the beginning were given, not written.
        overridden (`Collection[str]`, *optional*): Labels whose state was given.
        evidence (`Collection[str]`, *optional*): Labels that the answer has heat maps of.

    Returns:
        `list[dict]`: For each sentence

        - **text** (`str`) and **span** (`[int, int]`): The sentence, and where it stands in the report.
        - **section** (`str` or `None`): The header above it in lower case, such as `"findings"`.
        - **labels** (`list[dict]`): What it states of the labels, by the rules of [`~labeling.label_reports`]; empty
          for a sentence about none of them. Of each: `label`, `state`, `span` (of the words that say so), `score` (the
          calibrated probability of positive), `agrees` (whether the state that the report was written from is present,
          that is positive or uncertain, exactly where the sentence has it present), `given` (whether a person said so,
          by an overridden label or in the beginning of the report), and, with `evidence`, `has_evidence`: whether
          `answer["evidence"]` has its map. `score` and `agrees` are `None` for a label that the model does not know.
        - **likelihood**, **least_likelihood** (`float` or `None`): The geometric mean of the probabilities that the
          model gave its tokens, and the least of them; `None` where none was written by the model.
        - **confidence** (`float` or `None`): The probability that all its labels are right; `None` without a
          calibration, or where the model claims nothing: for a sentence about none of the labels, or with given ones
          only.
    """
    known = {finding["label"]: finding for finding in findings}
    spans = sentence_spans(text)
    starts = [start for start, _, _ in spans]
    stated: list[dict[str, Mention]] = [{} for _ in spans]
    _, [mentions] = label_reports([text], explain=True)
    for label, of_label in mentions.items():
        for mention in of_label:
            of_sentence = stated[max(bisect_right(starts, mention.span[0]) - 1, 0)]
            if label not in of_sentence or _rank(mention) < _rank(of_sentence[label]):
                of_sentence[label] = mention
    sentences = []
    for (start, end, section), of_sentence in zip(spans, stated, strict=True):
        log_probs = _log_probs_within(tokens or (), start, end)
        labels = [
            _label_row(mention, known.get(label), label in overridden or mention.span[1] <= draft_length, evidence)
            for label, mention in sorted(of_sentence.items(), key=lambda item: LABELS.index(item[0]))
        ]
        sentence = {
            "text": text[start:end],
            "span": [start, end],
            "section": section,
            "labels": labels,
            "likelihood": round(math.exp(sum(log_probs) / len(log_probs)), 4) if log_probs else None,
            "least_likelihood": round(math.exp(min(log_probs)), 4) if log_probs else None,
        }
        claim = None if calibration is None else claim_features(sentence, findings)
        confidence = None if claim is None else round(confidence_of(claim, calibration), 4)
        sentences.append({**sentence, "confidence": confidence})
    return sentences


def sentence_spans(text: str) -> list[tuple[int, int, str | None]]:
    """
    The sentences of a report in the order of the text, with the marks that end them, and the header above each.

    Those of sections that the labeler does not read, such as recommendations, are there as well; headers are not.
    """
    spans: list[tuple[int, int, str | None]] = []
    end_before = 0
    for start, end, header in sorted((start, end, header) for header, start, end in split_sections(text)):
        spans += [(*span, None) for span in _sentences_within(text, end_before, start) if not _is_header(text, *span)]
        spans += [(*span, header or None) for span in _sentences_within(text, start, end)]
        end_before = end
    rest = _sentences_within(text, end_before, len(text))
    return spans + [(*span, None) for span in rest if not _is_header(text, *span)]


def _sentences_within(text: str, first: int, last: int) -> Iterator[tuple[int, int]]:
    for start, end in split_sentences(text[first:last]):
        if any(map(str.isalpha, text[first + start : first + end])):  # not the number of an item
            stops = _STOPS.match(text, first + end, last)
            yield first + start, stops.end() if stops else first + end


def _is_header(text: str, start: int, end: int) -> bool:
    words = text[start:end]
    if words.endswith((".", "!", "?")):
        return False
    return words.endswith((":", " -")) or read_header(words.lower(), alone=True) is not None


def _rank(mention: Mention) -> int:
    return _PRECEDENCE.index(mention.state)


def _label_row(mention: Mention, finding: dict | None, given: bool, evidence: Collection[str] | None) -> dict:
    row = {"label": mention.label, "state": mention.state, "span": list(mention.span)}
    row["score"] = None if finding is None else finding["score"]
    row["agrees"] = None if finding is None else (finding["state"] in PRESENT) == (mention.state in PRESENT)
    row["given"] = given
    return row if evidence is None else {**row, "has_evidence": mention.label in evidence}


def _log_probs_within(tokens: Sequence[tuple[int, float]], start: int, end: int) -> list[float]:
    """Of the tokens whose last character is in a span: those of the end of a text have none."""
    within, before = [], -1
    for token_end, log_prob in tokens:
        if token_end > before and start < token_end <= end:
            within.append(log_prob)
        before = max(before, token_end)
    return within


def claims_of(sentence: dict) -> list[dict]:
    """What the model claims by a sentence of [`read_sentences`]: its labels that no one gave and that it predicts."""
    written = sentence["likelihood"] is not None
    return [row for row in sentence["labels"] if written and row["score"] is not None and not row["given"]]


def claim_features(sentence: dict, findings: Sequence[dict]) -> dict[str, float] | None:
    """
    What speaks for a sentence and against it; `None` where the model claims nothing by it.

    The chances of its labels by the disease head, the weakest and all together; whether the head disagrees; how
    doubtful the head is about the study; the likelihood of its tokens; and which labels it has present or absent, as
    some are written wrongly more often than their scores tell.

    Args:
        sentence (`dict`): As of [`read_sentences`].
        findings (`Sequence[dict]`): Of the same answer.
    """
    claims = claims_of(sentence)
    if not claims:
        return None
    is_present = [row["state"] in PRESENT for row in claims]
    chances = [
        _clipped(row["score"] if present else 1 - row["score"]) for row, present in zip(claims, is_present, strict=True)
    ]
    doubts = [math.log(_clipped(min(finding["score"], 1 - finding["score"]))) for finding in findings]
    features = {
        "intercept": 1.0,
        "weakest_label": math.log(min(chances) / (1 - min(chances))),
        "all_labels": sum(map(math.log, chances)),
        "num_labels": float(len(claims)),
        "disagrees": float(not all(row["agrees"] for row in claims)),
        "doubt": sum(doubts) / len(doubts),
        "is_uncertain": float(any(row["state"] == "uncertain" for row in claims)),
        "likelihood": math.log(_clipped(sentence["likelihood"])),
        "least_likelihood": math.log(_clipped(sentence["least_likelihood"])),
    }
    of_labels = {
        f"{'present' if present else 'absent'}: {row['label']}": 1.0
        for row, present in zip(claims, is_present, strict=True)
    }
    return features | of_labels


def _clipped(probability: float) -> float:
    return min(max(probability, _LEAST), 1 - _LEAST)


def confidence_of(features: Mapping[str, float], calibration: Mapping[str, float]) -> float:
    """The probability that a sentence is right, of [`claim_features`] and their weights."""
    log_odds = sum(weight * features.get(name, 0.0) for name, weight in calibration.items())
    return 1 / (1 + math.exp(-min(max(log_odds, -500.0), 500.0)))
