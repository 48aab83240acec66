"""Search over a local corpus as a tool: BM25 over an index that is saved once and mapped into memory.

BM25 by Lucene's formula (Robertson and Zaragoza 2009, doi 10.1561/1500000019; Lù 2024, arXiv 2407.03618, for
the index).
"""

from __future__ import annotations

import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from gpg_jax.environments.corpus import Corpus
from gpg_jax.environments.tools import Tool

if TYPE_CHECKING:
    import bm25s

NOTHING = "nothing was found"

_MARK = "documents.sha256"


def build_index(corpus: Corpus, folder: Path | str) -> Path:
    """Indexes documents, unless the folder has the index of the same ones: then they are not read.

    The folder appears by a rename: processes that start together each index, and the first one's is kept.

    Args:
      corpus: the documents.
      folder: made where it is not there; it must be empty, or the index of these documents.

    Returns:
      The folder.

    Raises:
      ValueError: no documents, or a folder with something else in it, be it the index of other documents.
    """
    folder = Path(folder)
    if _is_index_of(corpus.digest, folder):
        return folder
    texts = list(corpus.read())
    if not texts:
        raise ValueError(f"there are no documents to search in {corpus.name!r}")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as scratch:
        made = Path(scratch) / "index"
        _save_index(texts, made)
        (made / _MARK).write_text(corpus.digest)
        try:
            made.rename(folder)
        except OSError:
            if not _is_index_of(corpus.digest, folder):
                raise
    return folder


def cached_index(corpus: Corpus, cache: Path | str) -> Path:
    """Indexes documents in a folder of `cache` that has their name and digest; see `build_index`."""
    return build_index(corpus, Path(cache) / f"{corpus.name}-{corpus.digest[:16]}")


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


def load_index(folder: Path | str) -> bm25s.BM25:
    """An index whose scores and documents stay on the disk, mapped into memory.

    Args:
      folder: from `build_index`.

    Raises:
      ValueError: no index in the folder.
    """
    import bm25s

    if not (Path(folder) / _MARK).is_file():
        raise ValueError(f"{folder} has no index; make one with environments.search.build_index")
    return bm25s.BM25.load(folder, mmap=True, load_corpus=True, show_progress=False)


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
    index = load_index(folder)
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
