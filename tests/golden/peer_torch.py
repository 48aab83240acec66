"""What the peers in torch share: inputs as tensors, the gradient of a loss, stand-ins for absent packages."""

from __future__ import annotations

import importlib.machinery
import sys
from unittest.mock import MagicMock

import torch


def stand_in(*names: str) -> None:
    """Let packages that a peer imports for its cluster, and that are not installed, import as mocks."""

    class Absent:
        @classmethod
        def find_spec(cls, name, path=None, target=None):
            absent = any(f"{name}.".startswith(f"{one}.") for one in names)
            return importlib.machinery.ModuleSpec(name, cls) if absent else None

        @staticmethod
        def create_module(spec):
            return MagicMock(__spec__=spec, __path__=[], __name__=spec.name)

        @staticmethod
        def exec_module(module) -> None:
            pass

    sys.meta_path.append(Absent)


def torch_rows(rows: dict, *names: str) -> list:
    tensors = [torch.tensor(rows[name]) for name in names]
    return [tensor.float() if tensor.dtype == torch.int64 else tensor for tensor in tensors]


def gradient_of(loss, log_prob) -> dict:
    return {"loss": loss.item(), "gradient": torch.autograd.grad(loss, log_prob)[0]}
