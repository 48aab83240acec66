"""One row of data, and sequences of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

Message = Mapping[str, str]
"""A chat message: `{"role": ..., "content": ...}`."""


@dataclasses.dataclass(frozen=True)
class Example:
    """A question whose answer can be checked.

    Attributes:
      prompt: text, or chat messages.
      answer: the gold answer; what it means is the verifier's business.
      metadata: whatever else a verifier or a transcript needs; JSON-able.
    """

    prompt: str | tuple[Message, ...]
    answer: str
    metadata: Mapping[str, Any] = dataclasses.field(default_factory=dict)
