"""The Conv1D of transformers (GPT-2's layers): a linear layer whose weight is stored [in, out]."""

from __future__ import annotations

from torch import nn


def is_conv1d(module: nn.Module) -> bool:
    return type(module).__name__ == "Conv1D" and type(module).__module__ == "transformers.pytorch_utils"


def as_linear(conv: nn.Module) -> nn.Linear:
    """An nn.Linear over the same memory: its [out, in] weight is a view, its bias the same Parameter."""
    linear = nn.Linear(conv.nx, conv.nf, device="meta")
    linear.weight = nn.Parameter(conv.weight.detach().mT, requires_grad=conv.weight.requires_grad)
    linear.bias = conv.bias
    return linear.train(conv.training)
