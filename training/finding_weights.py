"""Weights of a report's tokens in the language-model loss: sentences that state a finding count more."""

from functools import lru_cache

import numpy as np
import torch

from otdrg_hf.labeling import LABELS, label_reports
from otdrg_hf.labeling.labels import POSITIVE, UNCERTAIN
from otdrg_hf.labeling.sections import split_sentences

NO_FINDING = LABELS.index("No Finding")


def finding_weights(completion: str, tokenizer, weight: float) -> torch.Tensor:
    """
    The weight of each token of a completion, `[T]`: `weight` in sentences that state a finding, 1 elsewhere.

    Most sentences of most reports say that all is well. To an LLM that learns from few reports, the words by which a
    report differs from the usual one are a few in a hundred.

    Args:
        completion (`str`): As of [`OTDRGProcessor.build_completion`].
        tokenizer ([`PreTrainedTokenizerFast`]): That the completion is encoded by, without special tokens added.
        weight (`float`): Of the tokens of a finding.
    """
    offsets = tokenizer(completion, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
    weights = torch.ones(len(offsets))
    text = completion.removesuffix(tokenizer.eos_token)
    for start, end in split_sentences(text):
        if states_a_finding(text[start:end]):
            # The blank before a word belongs to its token.
            inside = [start <= last - 1 < end for _, last in offsets]
            weights[torch.tensor(inside)] = weight
    return weights


@lru_cache(maxsize=100_000)
def states_a_finding(sentence: str) -> bool:
    """Whether the labeler finds a disease or device in it, for certain or not."""
    states = np.delete(np.asarray(label_reports([sentence]))[0], NO_FINDING)
    return bool(np.isin(states, (POSITIVE, UNCERTAIN)).any())
