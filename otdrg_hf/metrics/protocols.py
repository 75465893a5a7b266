"""Evaluation protocols: what is done to predictions and references before NLG figures are computed."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass

UNKNOWN = "<unk>"
MASK_POLICIES = ("keep", "remove")
# What de-identification left where a name, date or age was: XXXX in IU X-Ray, ___ in MIMIC-CXR.
_MASK = re.compile(r"\bX{4,}\b|_{3,}", re.IGNORECASE)
_DOTS, _BLANKS, _LINES = ("..", "."), ("  ", " "), ("__", "_")
# R2Gen drops the numbers of enumerated sentences, 1 to 5, by replacing these strings one after the other.
_NUMBERS = [("1. ", "")]
_NUMBERS += [(f". {number}. ", ". ") for number in range(2, 6)]
_NUMBERS += [(f" {number}. ", ". ") for number in range(2, 6)]
_STEPS = {
    "iu": [_DOTS] * 3 + _NUMBERS,
    "mimic": [("\n", " ")] + [_LINES] * 7 + [_BLANKS] * 7 + [_DOTS] * 8 + _NUMBERS,
}
_QUOTES = str.maketrans("", "", "\"/\\'")
# R2Gen's class, where the range from ":" to "[" takes in < = > ? @ and leaves the hyphen out. An unknown-word mark
# that a prediction already holds is kept.
_MARKS = re.compile(r"(<unk>)|[.,?;*!%^&_+():-\[\]{}]")


@dataclass(frozen=True)
class Protocol:
    """
    One published way of preparing texts for scoring.

    Attributes:
        name (`str`): as given to `evaluate_reports`.
        cleaning (`str`, *optional*): `"iu"` or `"mimic"`, R2Gen's cleaning of either; `None` leaves texts as they are.
        max_prediction_words (`int`, *optional*): predictions are cut after this many words.
        max_reference_words (`int`, *optional*): references are cut after this many words.
        min_count (`int`, *optional*): words of references that occur fewer times in the training reports become
            `<unk>`.
    """

    name: str
    cleaning: str | None = None
    max_prediction_words: int | None = None
    max_reference_words: int | None = None
    min_count: int | None = None


# R2Gen (Chen et al., EMNLP 2020) counts a start mark among the 60 or 100 tokens of a reference, so that 59 or 99
# words remain; its decoder can write all 60 or 100.
PROTOCOLS = {
    protocol.name: protocol
    for protocol in (
        Protocol("raw"),
        Protocol("r2gen-iu", "iu", max_prediction_words=60, max_reference_words=59, min_count=3),
        Protocol("r2gen-mimic", "mimic", max_prediction_words=100, max_reference_words=99, min_count=10),
    )
}


def get_protocol(name: str) -> Protocol:
    """The protocol of that name; `ValueError` naming the known ones otherwise."""
    if name not in PROTOCOLS:
        raise ValueError(f"unknown protocol {name!r}; give one of {', '.join(PROTOCOLS)}")
    return PROTOCOLS[name]


def apply_masks_policy(
    policy: str, predictions: Sequence[str], references: Sequence[Sequence[str]]
) -> tuple[list[str], list[list[str]], dict]:
    """
    Keeps or removes de-identification masks (`XXXX`, `___`) in predictions and references alike.

    A model that has learned to write `XXXX` where the references have it scores for it, and says nothing by it. R2Gen
    and those after it keep the masks, so `"keep"` is what published figures were computed with.

    Args:
        policy (`str`): `"keep"` or `"remove"`.
        predictions (`Sequence[str]`): N texts.
        references (`Sequence[Sequence[str]]`): N lists of texts.

    Returns:
        `tuple[list[str], list[list[str]], dict]`: the texts, and a record with the policy and the numbers of
        predictions and references that have a mask.

    Raises:
        ValueError: for an unknown policy.
    """
    check_masks_policy(policy)
    record = {
        "policy": policy,
        "predictions_with_masks": sum(_MASK.search(text) is not None for text in predictions),
        "references_with_masks": sum(_MASK.search(text) is not None for texts in references for text in texts),
    }
    if policy == "keep":
        return list(predictions), [list(texts) for texts in references], record
    return list(map(remove_masks, predictions)), [list(map(remove_masks, texts)) for texts in references], record


def check_masks_policy(policy: str) -> None:
    """Raises `ValueError` for an unknown policy of masks."""
    if policy not in MASK_POLICIES:
        raise ValueError(f"unknown policy of masks {policy!r}; give one of {', '.join(MASK_POLICIES)}")


def remove_masks(report: str) -> str:
    """A report without de-identification masks and the blanks that they leave."""
    if _MASK.search(report) is None:
        return report
    return re.sub(r" +(?=[ .,;:])|^ +", "", _MASK.sub("", report), flags=re.MULTILINE)


def clean_r2gen(report: str, dataset: str) -> str:
    """
    R2Gen's cleaning of a report: lower case, sentences split at ". " and joined by " . ", most punctuation dropped.

    Args:
        report (`str`): text of a report.
        dataset (`str`): `"iu"` or `"mimic"`, which differ in what is replaced before sentences are split.

    Returns:
        `str`: words and full stops parted by single blanks. An empty report gives `"."`, as published.
    """
    for old, new in _STEPS[dataset]:
        report = report.replace(old, new)
    sentences = report.strip().lower().split(". ")
    sentences = [_MARKS.sub(lambda match: match[1] or "", sentence.translate(_QUOTES)) for sentence in sentences]
    return " ".join((" . ".join(sentences) + " .").split())


def build_vocabulary(reports: Sequence[str], protocol: Protocol) -> frozenset[str]:
    """The words that occur at least `protocol.min_count` times in the cleaned training reports."""
    if protocol.cleaning is None or protocol.min_count is None:
        raise ValueError(f"The protocol {protocol.name!r} has no vocabulary.")
    counts = Counter(word for report in reports for word in clean_r2gen(report, protocol.cleaning).split())
    return frozenset(word for word, count in counts.items() if count >= protocol.min_count)


def apply_protocol(
    name: str,
    predictions: Sequence[str],
    references: Sequence[Sequence[str]],
    vocabulary_reports: Sequence[str] | None = None,
) -> tuple[list[str], list[list[str]], dict]:
    """
    Prepares texts as a protocol says.

    An empty prediction stays empty, as a decoder that stops at once leaves it.

    Args:
        name (`str`): `"raw"`, `"r2gen-iu"` or `"r2gen-mimic"`.
        predictions (`Sequence[str]`): N texts.
        references (`Sequence[Sequence[str]]`): N lists of texts.
        vocabulary_reports (`Sequence[str]`, *optional*): the training reports whose words are known. Without them no
            word is mapped to `<unk>`, and the record says so.

    Returns:
        `tuple[list[str], list[list[str]], dict]`: the prepared texts, and a record of what was done.
    """
    protocol = get_protocol(name)
    record = asdict(protocol)
    cleaning = protocol.cleaning
    if cleaning is None:
        return list(predictions), [list(texts) for texts in references], record
    vocabulary = None
    if vocabulary_reports is not None:
        vocabulary = build_vocabulary(vocabulary_reports, protocol)
        record["vocabulary"] = f"{len(vocabulary)} words of {len(vocabulary_reports)} training reports"
    else:
        record["vocabulary"] = "not given: no word of the references was mapped to <unk>"

    def prepare(text: str, limit: int | None) -> list[str]:
        return clean_r2gen(text, cleaning).split()[:limit]

    cut = unknown = 0
    prepared = []
    for texts in references:
        rows = [prepare(text, protocol.max_reference_words) for text in texts]
        cut += sum(len(row) == protocol.max_reference_words for row in rows)
        if vocabulary is not None:
            rows = [[word if word in vocabulary else UNKNOWN for word in row] for row in rows]
            unknown += sum(row.count(UNKNOWN) for row in rows)
        prepared.append([" ".join(row) for row in rows])
    record["references_at_the_limit"] = cut
    record["unknown_words_in_references"] = unknown if vocabulary is not None else None
    cleaned = [" ".join(prepare(text, protocol.max_prediction_words)) if text.strip() else "" for text in predictions]
    return cleaned, prepared, record
