"""Whether studies fit into the context of the LLM, prompt and report together."""

from collections.abc import Iterable, Mapping
from typing import Any

from datasets import Dataset

from otdrg_hf.modeling.processing_otdrg import OTDRGProcessor

# Characters of a prompt that are not of a study: names of views and sections, and the end of the text.
WORDING_PER_VIEW, WORDING = 16, 64


def study_tokens(study: Mapping[str, Any], processor: OTDRGProcessor, target: str) -> tuple[int, int]:
    """Tokens of the prompt, visual and label tokens included, and of the report. No image is looked at."""
    views = study["views"]
    prompt = processor.build_prompt(len(views), views, study["indication"], study["comparison"], fit=False)
    completion = processor.build_completion(study[target])
    tokens = processor.tokenizer(completion, add_special_tokens=False)["input_ids"]
    return processor.count_tokens(prompt), len(tokens)


def check_context(
    studies: Iterable[Mapping[str, Any]], processor: OTDRGProcessor, target: str, text_only: bool = False
) -> None:
    """
    Makes sure that an LLM has positions for every study.

    Args:
        text_only (`bool`): Whether prompts leave the images out.

    Raises:
        ValueError: naming the first study that is too long, its length and the limit.
    """
    limit = processor.context_length
    if limit is None:
        return
    if isinstance(studies, Dataset):
        studies = studies.select_columns(list({"id", "views", "indication", "comparison", target})).with_format(None)
    shortest = processor.count_tokens(processor.build_prompt(1, fit=False)) + WORDING
    too_long = []
    for study in studies:
        study = {**study, "views": []} if text_only else study
        if shortest + _most_tokens(study, processor, target) <= limit:
            continue
        prompt, report = study_tokens(study, processor, target)
        if prompt + report > limit:
            too_long.append(f"Study {study['id']!r} takes {prompt + report} tokens (prompt {prompt}, report {report})")
    if too_long:
        in_all = f" ({len(too_long)} studies are too long)" if len(too_long) > 1 else ""
        raise ValueError(
            f"{too_long[0]}, more than the LLM's context of {limit}{in_all}: shorten the texts, leave studies out, or "
            "take an LLM with a longer context."
        )


def _most_tokens(study: Mapping[str, Any], processor: OTDRGProcessor, target: str) -> int:
    """A bound that needs no tokenizer: no token is less than a byte."""
    texts = (study[name] or "" for name in ("indication", "comparison", target))
    per_view = processor.num_image_tokens + WORDING_PER_VIEW
    return per_view * len(study["views"]) + sum(len(text.encode()) for text in texts)
