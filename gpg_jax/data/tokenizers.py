"""Text to token ids and back, as the model ships it, by the `tokenizers` library alone.

`token_bytes` says what every id adds to the text: that is what an automaton over the vocabulary reads.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from gpg_jax.data.token_bytes import bytes_of_tokens


class Tokenizer(NamedTuple):
    """Pure functions and the ids that have a role.

    Attributes:
      encode: text -> ids of exactly this text; special tokens written in it become their ids.
      encode_prompt: text -> ids of this text at the start of a row: with the begin-of-sequence token
        where the model wants one and the text does not begin with it already.
      decode: ids -> text, without special tokens.
      decode_all: ids -> text, special tokens written out.
      token_bytes: one entry an id, the bytes that it adds to the text; `b""` for special tokens and for
        ids without a token.
      vocab_size: number of ids, one more than the largest.
      eos_ids: ids that end a row, the `eos_token` of the tokenizer itself first.
      pad_id: id for padding; it is masked wherever it stands.
      special_tokens: role -> text ("bos_token", "eos_token", …), what chat templates may ask for.
      encode_foreign: text of somebody else's, as a tool's result is -> ids, none of them of a special token
        or with a role, whatever is written in it; characters that it lacks are `?`, or left out.
    """

    encode: Callable[[str], list[int]]
    encode_prompt: Callable[[str], list[int]]
    decode: Callable[[Sequence[int]], str]
    decode_all: Callable[[Sequence[int]], str]
    token_bytes: tuple[bytes, ...]
    vocab_size: int
    eos_ids: tuple[int, ...]
    pad_id: int
    special_tokens: dict[str, str]
    encode_foreign: Callable[[str], list[int]]


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON: {error}") from error


def read_special_tokens(folder: Path) -> dict[str, str]:
    """Role -> text of the special tokens in `special_tokens_map.json` and `tokenizer_config.json`."""
    named = _read_json(folder / "special_tokens_map.json") | _read_json(folder / "tokenizer_config.json")
    texts = {}
    for role, token in named.items():
        if role.endswith("_token") and isinstance(token, str | dict):
            texts[role] = token["content"] if isinstance(token, dict) else token
    return texts


def _ids(value: Any) -> list[int]:
    if value is None or isinstance(value, bool):
        return []
    return [number for number in (value if isinstance(value, list) else [value]) if number >= 0]


def load_tokenizer(folder: str | Path) -> Tokenizer:
    """Reads the tokenizer of a Hugging Face folder.

    A row ends with any id that `generation_config.json` (without one: `config.json`) gives as
    `eos_token_id`, and with the tokenizer's own `eos_token`. Padding is the tokenizer's `pad_token`,
    else the `pad_token_id` of those files, else the first end-of-sequence id, else 0.

    Args:
      folder: a local folder with `tokenizer.json`.

    Returns:
      A `Tokenizer`.

    Raises:
      ValueError: no `tokenizer.json` there, a damaged one, or one that is not at the level of bytes.
    """
    import tokenizers

    folder = Path(folder)
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise ValueError(f"{folder} has no tokenizer.json; give the folder of a Hugging Face model")
    try:
        backend = tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises nothing narrower
        raise ValueError(f"{path} is not a tokenizer that `tokenizers` can read: {error}") from error
    backend.no_padding()
    backend.no_truncation()
    special = read_special_tokens(folder)
    eos_ids, pad_id = _roles(folder, special, backend.token_to_id)
    token_bytes = tuple(bytes_of_tokens(json.loads(backend.to_str())))
    bos_id = backend.token_to_id(special.get("bos_token", ""))

    def encode(text: str) -> list[int]:
        return backend.encode(text, add_special_tokens=False).ids

    def encode_prompt(text: str) -> list[int]:
        plain = encode(text)
        begun = bos_id is not None and plain[:1] == [bos_id]
        return plain if begun else backend.encode(text, add_special_tokens=True).ids

    return Tokenizer(
        encode=encode,
        encode_prompt=encode_prompt,
        decode=lambda ids: backend.decode([int(token) for token in ids], skip_special_tokens=True),
        decode_all=lambda ids: backend.decode([int(token) for token in ids], skip_special_tokens=False),
        token_bytes=token_bytes,
        vocab_size=len(token_bytes),
        eos_ids=eos_ids,
        pad_id=pad_id,
        special_tokens=special,
        encode_foreign=_foreign_encoder(backend.to_str(), {*eos_ids, pad_id}),
    )


def _foreign_encoder(description: str, roles: set[int]) -> Callable[[str], list[int]]:
    """What writes special tokens, and others that have a role, as the plain text that they look like.

    It raises a ValueError where the vocabulary has nothing else to write such a text with.
    """
    import tokenizers

    settings = json.loads(description)
    for token in settings["added_tokens"]:
        token["special"] |= token["id"] in roles
    control = {token["id"] for token in settings["added_tokens"] if token["special"]} | roles
    backend = tokenizers.Tokenizer.from_str(json.dumps(settings))
    backend.encode_special_tokens = True

    def encode_foreign(text: str) -> list[int]:
        ids = backend.encode(text, add_special_tokens=False).ids
        if found := control.intersection(ids):
            written = ", ".join(repr(backend.id_to_token(token)) for token in sorted(found))
            raise ValueError(f"the tokenizer can write {written} as a special token alone")
        return ids

    return encode_foreign


def _roles(
    folder: Path, special: dict[str, str], id_of: Callable[[str], int | None]
) -> tuple[tuple[int, ...], int]:
    """End-of-sequence ids, the tokenizer's own first, and the id of padding."""
    generation, config = _read_json(folder / "generation_config.json"), _read_json(folder / "config.json")
    eos = _ids(id_of(special.get("eos_token", "")))
    eos += _ids(generation.get("eos_token_id")) or _ids(config.get("eos_token_id"))
    pad = _ids(id_of(special.get("pad_token", "")))
    pad += _ids(generation.get("pad_token_id")) + _ids(config.get("pad_token_id")) + eos + [0]
    return tuple(dict.fromkeys(eos)), pad[0]


def check_tokenizer_fits(tokenizer: Tokenizer, vocab_size: int) -> None:
    """Raises a ValueError if a tokenizer has ids that a model's vocabulary lacks.

    Args:
      tokenizer: the tokenizer.
      vocab_size: V of the model; it may be larger, as embeddings are often padded.
    """
    if tokenizer.vocab_size > vocab_size:
        raise ValueError(
            f"the tokenizer has {tokenizer.vocab_size} ids but the model's vocabulary has {vocab_size}; "
            "take the tokenizer that the model was trained with"
        )
    roles = {"eos_ids": tokenizer.eos_ids, "pad_id": (tokenizer.pad_id,)}
    for role, ids in roles.items():
        if outside := [token for token in ids if not 0 <= token < vocab_size]:
            raise ValueError(
                f"{role} of the tokenizer names {outside[0]}, outside the vocabulary of {vocab_size}"
            )


def vocabulary_bytes(tokenizer: Tokenizer, vocab_size: int) -> tuple[bytes, ...]:
    """The tokenizer's `token_bytes`, with `b""` for the ids up to V that no token has.

    Args:
      tokenizer: the tokenizer.
      vocab_size: V of the model.

    Returns:
      V byte strings.

    Raises:
      ValueError: the tokenizer does not fit.
    """
    check_tokenizer_fits(tokenizer, vocab_size)
    return tokenizer.token_bytes + (b"",) * (vocab_size - tokenizer.vocab_size)


def character_tokenizer(alphabet: str, pieces: Sequence[str] = ()) -> Tokenizer:
    """A tokenizer of single characters, and of whole pieces, for models that start from nothing.

    Id 0 is padding, 1 ends a row, and the characters follow in the order given, then the pieces. Where a
    piece stands in a text it is taken, of several the longest.

    Args:
      alphabet: the characters.
      pieces: texts of several characters that are one token, as tags are.

    Returns:
      A `Tokenizer` of `len(alphabet) + len(pieces) + 2` ids.

    Raises:
      ValueError: an empty alphabet, a character or piece that is given twice, or a piece of one character;
        later, when a text has a character that neither alphabet nor pieces have.
    """
    if not alphabet:
        raise ValueError("alphabet is empty; give the characters of the task")
    if twice := sorted({character for character in alphabet if alphabet.count(character) > 1}):
        raise ValueError(f"alphabet has {', '.join(map(repr, twice))} more than once")
    if len(set(pieces)) < len(pieces) or any(len(piece) < 2 for piece in pieces):
        raise ValueError(f"pieces must be different texts of two characters or more, got {tuple(pieces)}")
    names = {"pad_token": "<pad>", "eos_token": "<eos>"}
    texts = [*names.values(), *alphabet, *pieces]
    ids = {text: number for number, text in enumerate(texts) if number >= len(names)}
    written = {text: number for number, text in enumerate(texts)}
    split, anything = (
        re.compile("|".join(map(re.escape, sorted(known, key=len, reverse=True))) + rest)
        for known, rest in ((written, ""), (ids, r"|[\s\S]"))
    )

    def encode(text: str) -> list[int]:
        found = split.findall(text)
        if len("".join(found)) < len(text):
            foreign = sorted(set(split.sub("", text)))
            raise ValueError(
                f"{text!r} has {', '.join(map(repr, foreign))}, which the alphabet {alphabet!r} lacks"
            )
        return [written[piece] for piece in found]

    def encode_foreign(text: str) -> list[int]:
        found = (ids.get(piece, ids.get("?")) for piece in anything.findall(text))
        return [number for number in found if number is not None]

    return Tokenizer(
        encode=encode,
        encode_prompt=encode,
        decode=lambda tokens: "".join(texts[token] for token in tokens if token >= len(names)),
        decode_all=lambda tokens: "".join(texts[token] for token in tokens),
        token_bytes=(b"",) * len(names) + tuple(text.encode() for text in ids),
        vocab_size=len(texts),
        eos_ids=(1,),
        pad_id=0,
        special_tokens=names,
        encode_foreign=encode_foreign,
    )
