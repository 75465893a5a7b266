# Copyright 2026 The otdrg-hf authors. Licensed under the Apache License, Version 2.0.
"""The three losses of OTDRG: transport, disease states, and language; computed by `forward` where labels are given."""

import torch
from torch import nn
from torch.compiler import is_compiling
from torch.nn import functional as F

from .configuration_otdrg import NUM_STATES, OTDRGConfig
from .disease_states_otdrg import BLANK
from .layers_otdrg import couple, marginals
from .optimal_transport import cosine_cost, transport_cost

CONTRAST_TEMPERATURE = 0.15  # in units of the cosine cost of one label
NUM_OTHERS = 4  # studies of the batch to compare with where no other labels are given
CHUNK_LOGITS = 2**23  # logits at a time: 32 MiB in fp32


def weighted_sum(
    config: OTDRGConfig,
    lm_loss: torch.Tensor | None = None,
    ot_loss: torch.Tensor | None = None,
    disease_loss: torch.Tensor | None = None,
) -> torch.Tensor | None:
    """`lm_loss + ot_loss_weight * ot_loss + disease_loss_weight * disease_loss` of those that there are."""
    terms = [] if lm_loss is None else [lm_loss]
    if ot_loss is not None:
        terms.append(config.ot_loss_weight * ot_loss)
    if disease_loss is not None:
        terms.append(config.disease_loss_weight * disease_loss)
    # The head of the LLM may be on another device than the transport.
    return sum((term.to(terms[0].device) for term in terms[1:]), start=terms[0]) if terms else None


def disease_loss(logits: torch.Tensor, states: torch.Tensor) -> torch.Tensor:
    """Cross-entropy over the states, averaged over the known labels (not -100) of each study, `[B]`."""
    losses = F.cross_entropy(logits.transpose(1, 2), states, reduction="none")  # [B, m]
    return losses.sum(-1) / (states >= 0).sum(-1).clamp(min=1)


def transport_loss(
    patches: torch.Tensor,
    patch_mask: torch.Tensor,
    phrases: torch.Tensor,
    background_cost: torch.Tensor,
    states: torch.Tensor,
    other_states: torch.Tensor | None,
    config: OTDRGConfig,
    temperature: float = CONTRAST_TEMPERATURE,
) -> torch.Tensor:
    """
    Cross-entropy of the states of a study against those of other studies by their transport distance, `[B]`.

    With `d(s) = <T_s, C_s>`, the cost of moving the patches of a study to the phrases of the states *s* of all its
    labels, and `S` its own states and those of others: `-log softmax_S(-d / temperature)` at its own. To minimise the
    distance alone is to make all features one direction, and where most labels are blank, one that resembles "not
    mentioned"; against the distance of other states only what tells them apart counts. They are real ones, as states
    that are drawn label by label contradict each other, which tells them apart without an image.

    Args:
        patches (`torch.Tensor` of shape `[B, N, d]`): Patches of all views.
        patch_mask (`torch.Tensor` of shape `[B, N]`): 1 where the view is real, 0 where it is padding.
        phrases (`torch.Tensor` of shape `[m, states, d]`): Features of the phrases.
        background_cost (`torch.Tensor` of shape `[B, N]`): Cost of moving a patch to the background.
        states (`torch.Tensor` of shape `[B, m]`): State codes, -100 where unknown.
        other_states (`torch.Tensor` of shape `[B, k, m]`, *optional*):
            Of other studies. `None`: of the next ones in the batch, up to four; alone, a study has a loss of 0.
        config ([`OTDRGConfig`]): Of the transport.
        temperature (`float`, *optional*, defaults to 0.15): In units of the cosine cost of one label.
    """
    if other_states is None:
        shifts = range(1, min(NUM_OTHERS + 1, len(states)))
        other_states = torch.stack([states, *(states.roll(shift, 0) for shift in shifts)], 1)[:, 1:]  # [B, k, m]
    unknown = states.unsqueeze(1) < 0
    own = states.unsqueeze(1).masked_fill(unknown, BLANK)  # [B, 1, m]
    # An unknown state tells nothing apart.
    others = torch.where(unknown | (other_states < 0), own, other_states)  # [B, k, m]
    cost = cosine_cost(patches, phrases.flatten(0, 1).expand(len(patches), -1, -1))  # [B, N, m * states]
    cost = torch.cat([cost, background_cost.unsqueeze(-1)], -1)
    distances = _distances(cost, patch_mask, torch.cat([own, others], 1), config)  # [B, 1 + k]
    # In units of the mean mass of a label: one temperature for any number of labels and any background.
    unit = (1 - config.background_mass) / config.num_disease_labels
    same = F.pad((others == own).all(-1), (1, 0))  # [B, 1 + k]
    scores = (-distances / (unit * temperature)).masked_fill(same, -torch.inf)
    return -scores.log_softmax(-1)[:, 0]


def _distances(cost, patch_mask, states, config: OTDRGConfig) -> torch.Tensor:
    """Of each study from several states `[B, s, m]` of its labels, `[B, s]`, by `cost` `[B, N, m * states + 1]`."""
    batch, several, m = states.shape
    columns = torch.arange(m, device=states.device) * NUM_STATES + states  # [B, s, m]
    columns = F.pad(columns, (0, 1), value=cost.shape[-1] - 1).flatten(1)  # [B, s * (m + 1)]
    cost = cost.gather(2, columns.unsqueeze(1).expand(-1, cost.shape[1], -1))  # [B, N, s * (m + 1)]
    cost = cost.unflatten(2, (several, m + 1)).transpose(1, 2).flatten(0, 1)  # [B * s, N, m + 1]
    masses = torch.tensor(config.state_masses, device=states.device)[states].flatten(0, 1)  # [B * s, m]
    a, b = marginals(patch_mask.repeat_interleave(several, 0), masses, config.background_mass)
    return transport_cost(couple(cost, a, b, config), cost).unflatten(0, (batch, several))


def chunked_cross_entropy(
    hidden: torch.Tensor,
    head: nn.Module,
    targets: torch.Tensor,
    cap: float | None = None,
    weights: torch.Tensor | None = None,
    chunk: int | None = None,
) -> torch.Tensor | None:
    """
    Sum of the cross-entropies of `head(hidden)`, whose gradient is computed along with it, chunk by chunk.

    Args:
        hidden (`torch.Tensor` of shape `[N, hidden]`): Hidden states.
        head (`nn.Module`): The projection onto the vocabulary.
        targets (`torch.Tensor` of shape `[N]`): Tokens to predict.
        cap (`float`, *optional*): Bound that `tanh` keeps the logits within, as in Gemma.
        weights (`torch.Tensor` of shape `[N]`, *optional*): Of each target in the sum. Default: 1.
        chunk (`int`, *optional*, defaults to `CHUNK_LOGITS`): Logits that may exist at a time.

    Returns:
        `torch.Tensor` of shape `[]`, fp32; `None` where all logits fit in a chunk, or where the projection is no plain
        one (an adapter, a sharded or quantised layer) and has to be called.
    """
    # A compiled graph cannot count chunks of a number of tokens that it does not know.
    if is_compiling() or type(head) is not nn.Linear or type(head.weight) is not nn.Parameter or _hooked(head):
        return None
    chunk = CHUNK_LOGITS if chunk is None else chunk
    if hidden.shape[0] * head.weight.shape[0] <= chunk:
        return None
    kind = hidden.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else hidden.dtype
    bias = None if head.bias is None else head.bias.to(dtype)
    with torch.autocast(kind, enabled=False):
        return _ChunkedCrossEntropy.apply(hidden.to(dtype), head.weight.to(dtype), bias, targets, weights, cap, chunk)


def _hooked(module: nn.Module) -> bool:
    # DeepSpeed and accelerate fetch weights in hooks, the latter in a forward of its own.
    return "forward" in vars(module) or any(
        (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks)
    )


class _ChunkedCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx, hidden, weight, bias, targets, weights, cap, chunk):
        wanted = ctx.needs_input_grad[:3]
        # Sums over chunks are kept in fp32, whatever the dtype of the terms.
        of_hidden = torch.empty_like(hidden) if wanted[0] else None
        of_weight = torch.zeros_like(weight, dtype=torch.float32) if wanted[1] else None
        of_bias = torch.zeros_like(bias, dtype=torch.float32) if wanted[2] else None
        loss = torch.zeros((), device=hidden.device)
        rows = max(1, chunk // weight.shape[0])
        for start in range(0, hidden.shape[0], rows):
            part, target = hidden[start : start + rows], targets[start : start + rows, None]
            logits = F.linear(part, weight, bias).float()  # [rows, vocab]
            if cap is not None:
                logits.div_(cap).tanh_().mul_(cap)
            normaliser = logits.logsumexp(-1, keepdim=True)
            share = 1.0 if weights is None else weights[start : start + rows, None].float()
            loss += ((normaliser - logits.gather(1, target)) * share).sum()
            if not any(wanted):
                continue
            slope = None if cap is None else 1 - (logits / cap).square()  # of the cap
            gradient = logits.sub_(normaliser).exp_()
            gradient.scatter_add_(1, target, gradient.new_full(target.shape, -1.0))
            if slope is not None:
                gradient.mul_(slope)
            gradient.mul_(share)
            if of_bias is not None:
                of_bias += gradient.sum(0)
            gradient = gradient.to(weight.dtype)
            if of_hidden is not None:
                torch.mm(gradient, weight, out=of_hidden[start : start + rows])
            if of_weight is not None and weight.dtype == torch.float32:
                of_weight.addmm_(gradient.T, part)
            elif of_weight is not None:
                of_weight += gradient.T @ part
        ctx.gradients, ctx.dtype = (of_hidden, of_weight, of_bias), weight.dtype
        return loss

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, scale):
        if ctx.gradients is None:
            raise RuntimeError("The gradients of this loss were already taken: they are computed once, with the loss.")
        # Scaled where they are, for that of the weight is as large as the vocabulary.
        gradients, ctx.gradients = ctx.gradients, None
        gradients = [None if each is None else each.mul_(scale).to(ctx.dtype) for each in gradients]
        return *gradients, None, None, None, None
