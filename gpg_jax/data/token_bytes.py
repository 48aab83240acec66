"""What each token of a BPE vocabulary adds to the text, as bytes.

Byte-level BPE (Radford et al. 2019, GPT-2) writes every byte as one printable character;
SentencePiece's BPE writes spaces as ▁ and falls back on tokens such as `<0x0A>`. A character may be
cut between two tokens, so that only bytes, never text, can be joined token by token.
"""

from __future__ import annotations

import re
from typing import Any

_BYTE_TOKEN = re.compile(r"<0x([0-9A-F]{2})>")


def byte_alphabet() -> dict[str, int]:
    """GPT-2's character -> byte: printable Latin-1 stands for itself, the rest is moved past 255."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    moved = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + n): byte for n, byte in enumerate(moved)}


def _decoders(description: dict[str, Any] | None) -> list[str]:
    if description is None:
        return []
    if description["type"] == "Sequence":
        return [kind for inner in description["decoders"] for kind in _decoders(inner)]
    return [description["type"]]


def _sentencepiece(token: str) -> bytes:
    byte = _BYTE_TOKEN.fullmatch(token)
    return bytes([int(byte[1], 16)]) if byte else token.replace("▁", " ").encode()


def bytes_of_tokens(description: dict[str, Any]) -> list[bytes]:
    """The bytes of every id of a tokenizer.

    Args:
      description: `tokenizer.json`, parsed.

    Returns:
      One entry an id: `b""` for special tokens and for ids without a token; tokens that were added
      but are not special stand for their text.

    Raises:
      ValueError: a tokenizer that is neither byte-level nor falls back on bytes.
    """
    kinds = _decoders(description.get("decoder"))
    if "ByteLevel" in kinds:
        alphabet = byte_alphabet()

        def text_of(token: str) -> bytes:
            return bytes(alphabet[character] for character in token)

    elif "ByteFallback" in kinds:
        text_of = _sentencepiece
    else:
        raise ValueError(
            f"the tokenizer decodes by {kinds or 'nothing'}; "
            "supported are byte-level BPE and BPE with byte fallback"
        )
    added = {token["id"]: b"" if token["special"] else token["content"].encode()
             for token in description.get("added_tokens", [])}  # fmt: skip
    vocabulary = {number: token for token, number in description["model"]["vocab"].items()}
    size = 1 + max([*vocabulary, *added])
    return [
        added[number] if number in added else text_of(vocabulary[number]) if number in vocabulary else b""
        for number in range(size)
    ]
