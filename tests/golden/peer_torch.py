"""What the peers in torch share: inputs as tensors, and the gradient of a loss."""

from __future__ import annotations

import torch


def torch_rows(rows: dict, *names: str) -> list:
    tensors = [torch.tensor(rows[name]) for name in names]
    return [tensor.float() if tensor.dtype == torch.int64 else tensor for tensor in tensors]


def gradient_of(loss, log_prob) -> dict:
    return {"loss": loss.item(), "gradient": torch.autograd.grad(loss, log_prob)[0]}
