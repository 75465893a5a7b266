"""Cross-entropy of a projection onto a large vocabulary, of whose logits no more than a few rows exist at a time."""

import torch
from torch import nn
from torch.compiler import is_compiling
from torch.nn import functional as F

CHUNK_LOGITS = 2**23  # logits at a time: 32 MiB in fp32


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
