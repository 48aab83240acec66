"""Search over a local corpus as a tool: BM25 over an index that is saved once and mapped into memory.

BM25 by Lucene's formula (Robertson and Zaragoza 2009, doi 10.1561/1500000019; Lù 2024, arXiv 2407.03618, for
the index).
"""

from __future__ import annotations

import hashlib
import json
import tempfile
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from gpg_jax.environments.tools import Tool

NOTHING = "nothing was found"


_MARK = "documents.sha256"


def build_index(documents: Iterable[str], folder: Path | str) -> Path:
    """Indexes documents, unless the folder has the index of the same ones.

    The folder appears by a rename: processes that start together each index, and the first one's is kept.

    Args:
      documents: texts; empty ones are left out.
      folder: made where it is not there; it must be empty, or the index of these documents.

    Returns:
      The folder.

    Raises:
      ValueError: no documents, or a folder with something else in it, be it the index of other documents.
    """
    texts = _texts(documents)
    return _build(texts, _digest(texts), Path(folder))


def cached_index(documents: Iterable[str], cache: Path | str, name: str) -> Path:
    """Indexes documents in a folder that has their digest in its name; see `build_index`.

    Args:
      documents: texts; empty ones are left out.
      cache: holds the folder.
      name: begins the folder's.
    """
    texts = _texts(documents)
    digest = _digest(texts)
    return _build(texts, digest, Path(cache) / f"{name}-{digest[:16]}")


def _texts(documents: Iterable[str]) -> list[str]:
    texts = [text for text in documents if text.strip()]
    if not texts:
        raise ValueError("there are no documents to search in")
    return texts


def _digest(texts: Sequence[str]) -> str:
    return hashlib.sha256(json.dumps(texts).encode()).hexdigest()


def _build(texts: list[str], digest: str, folder: Path) -> Path:
    if _is_index_of(digest, folder):
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as scratch:
        made = Path(scratch) / "index"
        _save_index(texts, made)
        (made / _MARK).write_text(digest)
        try:
            made.rename(folder)
        except OSError:
            if not _is_index_of(digest, folder):
                raise
    return folder


def _is_index_of(digest: str, folder: Path) -> bool:
    """Whether a folder is the index of the texts with a digest; False where it could become it."""
    # Asked before the mark is looked for: another process may make the index meanwhile, and all at once.
    taken = folder.exists() and (not folder.is_dir() or any(folder.iterdir()))
    mark = folder / _MARK
    if mark.is_file():
        if mark.read_text() == digest:
            return True
        raise ValueError(
            f"{folder} has the index of other documents; remove it, or give these a folder of their own"
        )
    if taken:
        raise ValueError(f"{folder} is not empty and has no index; give a folder of its own")
    return False


def _save_index(texts: list[str], folder: Path) -> None:
    import bm25s

    index = bm25s.BM25(backend="numpy")
    index.index(bm25s.tokenize(texts, stopwords="en", show_progress=False), show_progress=False)
    # A text that is left out would shift all that follow it.
    index.save(folder, corpus=texts, show_progress=False, raise_on_serialization_error=True)


def search_tool(folder: Path | str, *, results: int = 3, characters: int = 500, name: str = "search") -> Tool:
    """A tool that answers a query with the best documents of an index, of equally good ones the first.

    Args:
      folder: from `build_index`.
      results: documents of an answer, at least 1.
      characters: of each that are shown.
      name: of the tag.

    Raises:
      ValueError: no index in the folder, or no results wanted.
    """
    import bm25s

    if results < 1 or characters < 1:
        raise ValueError(f"a search shows at least 1 result of 1 character, got {results} of {characters}")
    if not (Path(folder) / _MARK).is_file():
        raise ValueError(f"{folder} has no index; make one with environments.search.build_index")
    index = bm25s.BM25.load(folder, mmap=True, load_corpus=True, show_progress=False)
    pages, reading = index.corpus, threading.Lock()

    def read(number: int) -> str:
        with reading:  # the reader moves to a page and then reads it
            return pages[number]["text"]

    def call(query: str) -> str:
        (tokens,) = bm25s.tokenize(query, stopwords="en", show_progress=False, return_ids=False)
        if not tokens:
            return NOTHING
        texts = [read(int(number))[:characters] for number in _best(index.get_scores(tokens), results)]
        return "\n".join(f"Page {number}: {text}" for number, text in enumerate(texts, 1)) or NOTHING

    return Tool(name, call)


def _best(scores: np.ndarray, count: int) -> np.ndarray:
    """Places of the highest scores above zero, in their order."""
    found = np.flatnonzero(scores > 0)
    if len(found) > count:
        found = found[scores[found] >= np.partition(scores[found], -count)[-count]]
    return found[np.argsort(-scores[found], kind="stable")][:count]


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
