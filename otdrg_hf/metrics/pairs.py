"""The checks that every metric makes on its predictions and references before it scores them."""

from collections.abc import Sequence


def as_pairs(
    predictions: Sequence[str], references: Sequence[str] | Sequence[Sequence[str]]
) -> tuple[list[str], list[list[str]]]:
    """
    Checks predictions and references and gives every prediction a list of references.

    Args:
        predictions (`Sequence[str]`): N texts; empty texts are allowed.
        references (`Sequence[str]` or `Sequence[Sequence[str]]`): N texts, or N lists of one or more texts.

    Returns:
        `tuple[list[str], list[list[str]]]`: the N predictions and the N reference lists.

    Raises:
        ValueError: if there are no pairs, the lengths differ, or a prediction has no reference.
        TypeError: if a text is not a `str`.
    """
    for name, texts in (("predictions", predictions), ("references", references)):
        if isinstance(texts, str):
            raise TypeError(f"{name} is one string; give a list of reports, one for each study")
    predictions = list(predictions)
    references = [[item] if isinstance(item, str) else item for item in references]
    if len(predictions) != len(references):
        raise ValueError(f"{len(predictions)} predictions but {len(references)} references; give one for each study")
    if not predictions:
        raise ValueError("there are no predictions to score; give at least one")
    for index, (prediction, texts) in enumerate(zip(predictions, references, strict=True)):
        if not isinstance(prediction, str):
            raise TypeError(f"prediction {index} is {type(prediction).__name__}; every prediction must be a string")
        if texts is None or not all(isinstance(text, str) for text in texts):
            raise TypeError(f"reference {index} holds something that is not a string; give strings")
        if len(texts) == 0:
            raise ValueError(f"prediction {index} has no reference; give at least one, which may be an empty string")
    return predictions, [list(texts) for texts in references]
