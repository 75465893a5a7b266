"""Samples several reports of each study from the policy, and scores tokens under a policy: the two halves of GRPO."""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList

from otdrg_hf.modeling.modeling_otdrg import OTDRGForConditionalGeneration, OTDRGStudyFeatures

NEVER = -1e9  # logit of a token that is never sampled: finite, for an entropy without NaN


@dataclass
class Rollout:
    """
    The sampled reports of B studies, G of each, one study after another.

    Attributes:
        prompt_ids, prompt_mask (`torch.Tensor` of shape `[B * G, P]`): Padded left.
        completion_ids, completion_mask (`torch.Tensor` of shape `[B * G, T]`): Padded right, up to the end of text.
        log_probs (`torch.Tensor` of shape `[B * G, T]`): Of each sampled token, as it was sampled.
        study (`torch.Tensor` of shape `[B * G]`): Row of each sample in `features`.
        features ([`OTDRGStudyFeatures`]): Of the B studies.
        ended (`torch.Tensor` of shape `[B * G]`): Whether a report came to its end within the limit.
    """

    prompt_ids: torch.Tensor
    prompt_mask: torch.Tensor
    completion_ids: torch.Tensor
    completion_mask: torch.Tensor
    log_probs: torch.Tensor
    study: torch.Tensor
    features: OTDRGStudyFeatures
    ended: torch.Tensor


class SeededSampling(LogitsProcessor):
    """
    Turns greedy decoding into sampling, with noise that follows from a study and a seed alone (the Gumbel-max trick):
    a study gets the same samples in any batch, any number of processes, and after a run was resumed.

    Args:
        generators (`Sequence[torch.Generator]`): One per study.
        num_samples (`int`): Of each study.
        temperature (`float`): Of the distribution that is sampled from.
    """

    def __init__(self, generators: Sequence[torch.Generator], num_samples: int, temperature: float):
        self.generators, self.num_samples, self.temperature = generators, num_samples, temperature
        self.log_probs: list[torch.Tensor] = []  # of the tokens so far, each [N]
        self.last: torch.Tensor | None = None  # [N, vocab]

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        if self.last is not None:
            self._keep(input_ids[:, -1])
        self.last = (scores.float() / self.temperature).log_softmax(-1)
        noise = torch.empty_like(self.last)  # exponential, whose negative logarithm is Gumbel's
        for generator, rows in zip(self.generators, noise.split(self.num_samples), strict=True):
            rows.exponential_(generator=generator)
        return self.last - noise.log()

    def finish(self, sequences: torch.Tensor) -> torch.Tensor:
        """Log-probabilities `[N, T]` of all sampled tokens."""
        self._keep(sequences[:, -1])
        return torch.stack(self.log_probs, 1)

    def _keep(self, tokens: torch.Tensor) -> None:
        assert self.last is not None
        self.log_probs.append(self.last.gather(1, tokens.unsqueeze(1)).squeeze(1))


def study_generators(ids: Sequence[str], seed: int, step: int, device: torch.device) -> list[torch.Generator]:
    """A generator for each study, of this step."""
    generators = []
    for each in ids:
        state = np.random.SeedSequence([seed, step, zlib.crc32(each.encode())]).generate_state(1, np.uint64)[0]
        generators.append(torch.Generator(device).manual_seed(int(state >> np.uint64(1))))
    return generators


@torch.no_grad()
def sample_reports(
    model: OTDRGForConditionalGeneration,
    inputs: dict[str, torch.Tensor],
    generators: Sequence[torch.Generator],
    num_samples: int,
    max_new_tokens: int,
    temperature: float = 1.0,
) -> Rollout:
    """
    Samples reports from a model in evaluation mode. Studies are encoded once, whatever the number of samples; prompts
    show predicted labels, as at test time.

    Args:
        inputs (`dict`): Of the processor: `input_ids` and `attention_mask` `[B, P]`, padded left, and the studies.
        generators (`Sequence[torch.Generator]`): One per study, see [`study_generators`].
    """
    study_inputs = {name: value for name, value in inputs.items() if name not in ("input_ids", "attention_mask")}
    features = model.get_image_features(**study_inputs, return_dict=True)
    study = torch.arange(len(generators), device=model.device).repeat_interleave(num_samples)  # [N]
    prompt_ids, prompt_mask = inputs["input_ids"][study], inputs["attention_mask"][study]
    sampling = SeededSampling(generators, num_samples, temperature)
    config = model.generation_config
    sequences = model.generate(
        input_ids=prompt_ids,
        attention_mask=prompt_mask,
        mm_encoder_outputs={"image": features.of_studies(study)},
        generation_config=GenerationConfig(
            max_new_tokens=max_new_tokens,
            do_sample=False,
            use_cache=True,
            # Explicit, as those of the checkpoint would be taken where there is none.
            num_beams=1,
            repetition_penalty=1.0,
            no_repeat_ngram_size=0,
            suppress_tokens=never_sampled(model),
            eos_token_id=config.eos_token_id,
            pad_token_id=config.pad_token_id,
        ),
        logits_processor=LogitsProcessorList([sampling]),
    )
    completion_ids = sequences[:, prompt_ids.shape[1] :]
    ends = torch.isin(completion_ids, torch.tensor(end_tokens(model), device=completion_ids.device))  # [N, T]
    before = ends.cumsum(1) - ends.long()  # ends of text before each token
    return Rollout(
        prompt_ids=prompt_ids,
        prompt_mask=prompt_mask,
        completion_ids=completion_ids,
        completion_mask=(before == 0).long(),
        log_probs=sampling.finish(sequences),
        study=study,
        features=features.of_studies(torch.arange(len(generators), device=model.device)),
        ended=ends.any(1),
    )


def token_log_probs(
    model: torch.nn.Module,
    body: OTDRGForConditionalGeneration,
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor,
    num_tokens: int,
    features: OTDRGStudyFeatures,
    temperature: float = 1.0,
) -> tuple[torch.Tensor, torch.Tensor]:
    """
    Log-probabilities and entropies, both `[N, T]`, of the last T tokens of prompts with completions.

    Args:
        model (`nn.Module`): The policy, as it is wrapped for distributed training.
        body ([`OTDRGForConditionalGeneration`]): The model itself.
        input_ids, attention_mask (`torch.Tensor` of shape `[N, P + T]`): Padded left and right.
        num_tokens (`int`): T.
        features ([`OTDRGStudyFeatures`]): Of the N samples' studies.
    """
    # Neither the embeddings nor what the studies are encoded by is trained.
    with torch.no_grad():
        embeds = body.model.merge_features(input_ids, body.get_input_embeddings()(input_ids), features)
    logits = model(
        inputs_embeds=embeds.detach(),
        attention_mask=attention_mask,
        position_ids=(attention_mask.cumsum(-1) - 1).clamp(min=0),  # as in generation
        logits_to_keep=num_tokens + 1,
        use_cache=False,
    ).logits[:, :-1]  # [N, T, vocab]
    logits = logits.float() / temperature
    logits[..., never_sampled(body)] = NEVER
    log_probs = logits.log_softmax(-1)
    tokens = input_ids[:, -num_tokens:].unsqueeze(-1)
    # Of no gradient, and so that the probabilities of the whole vocabulary are not kept for it.
    with torch.no_grad():
        entropies = -(log_probs.exp() * log_probs).sum(-1)
    return log_probs.gather(-1, tokens).squeeze(-1), entropies


def never_sampled(model: OTDRGForConditionalGeneration) -> list[int]:
    """Tokens that no report holds: placeholders of the prompt, and what the checkpoint suppresses."""
    config = model.config
    suppressed = model.generation_config.suppress_tokens or []
    return sorted({config.image_token_id, config.finding_token_id, *suppressed})


def end_tokens(model: OTDRGForConditionalGeneration) -> list[int]:
    ends = model.generation_config.eos_token_id
    return ends if isinstance(ends, list) else [ends]
