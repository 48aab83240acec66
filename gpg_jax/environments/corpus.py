"""Documents to search in: told apart by a digest, and read only where they have to be."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple


class Corpus(NamedTuple):
    """Documents.

    Attributes:
      name: of them, fit for a folder.
      digest: of where they come from; another one where they are others.
      read: () -> texts, none of them empty.
    """

    name: str
    digest: str
    read: Callable[[], Iterable[str]]


def corpus_of(documents: Iterable[str], name: str = "documents") -> Corpus:
    """Texts at hand; empty ones are left out."""
    texts = [text for text in documents if text.strip()]
    return Corpus(name, hashlib.sha256(json.dumps(texts).encode()).hexdigest(), lambda: texts)


def corpus_in(path: Path | str) -> Corpus:
    """The documents of a file, of which only the digest is taken until they are read.

    Args:
      path: `.jsonl` with a `text` in every line, or `.json`, a search cache, see `cached_pages`.

    Raises:
      ValueError: no such file; and where it is read, another layout.
    """
    path = Path(path)
    is_cache = path.suffix == ".json"
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256")
    except OSError as error:
        raise ValueError(f"{path} holds no documents: {error}") from error
    digest.update(b"cache" if is_cache else b"lines")  # the same bytes may be read by either
    return Corpus(path.stem, digest.hexdigest(), lambda: cached_pages(path) if is_cache else _lines(path))


def cached_pages(path: Path | str) -> list[str]:
    """The pages of a search cache, query -> text of the pages found, as ARPO's authors share theirs.

    Args:
      path: a JSON file.

    Raises:
      ValueError: no such file, or one of another layout.
    """
    try:
        cache = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} is not a search cache: {error}") from error
    if not isinstance(cache, dict) or not all(isinstance(text, str) for text in cache.values()):
        raise ValueError(f"{path} is not a search cache: it must map queries to texts")
    pages = (page.partition(": ")[2] or page for text in cache.values() for page in text.split("\n"))
    return list(dict.fromkeys(page.strip() for page in pages if page.strip()))


def _lines(path: Path) -> Iterator[str]:
    with path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                text = json.loads(line)["text"]
            except (ValueError, KeyError, TypeError) as error:
                raise ValueError(f"line {number} of {path} is no document with a `text`: {error}") from error
            if not isinstance(text, str):
                raise ValueError(f"line {number} of {path} is no document with a `text`: it is {text!r}")
            if text.strip():
                yield text
