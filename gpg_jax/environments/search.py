"""Search over a local corpus as a tool: BM25 over an index that is saved once and mapped into memory.

BM25 by Lucene's formula (Robertson and Zaragoza 2009, doi 10.1561/1500000019; Lù 2024, arXiv 2407.03618, for
the index).
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterable
from pathlib import Path

from gpg_jax.environments.tools import Tool

NOTHING = "nothing was found"


def build_index(documents: Iterable[str], folder: Path | str) -> Path:
    """Indexes documents, unless the folder has the index of the same ones.

    Args:
      documents: texts; empty ones are left out.
      folder: made where it is not there; it must be an index's or empty.

    Returns:
      The folder.

    Raises:
      ValueError: no documents, or a folder with something else in it.
    """
    import bm25s

    folder, texts = Path(folder), [text for text in documents if text.strip()]
    if not texts:
        raise ValueError("there are no documents to search in")
    digest = hashlib.sha256(json.dumps(texts).encode()).hexdigest()
    mark = folder / "documents.sha256"
    if mark.is_file() and mark.read_text() == digest:
        return folder
    if folder.is_dir() and any(folder.iterdir()) and not mark.is_file():
        raise ValueError(f"{folder} is not empty and has no index; give a folder of its own")
    half = folder.with_name(folder.name + ".part")
    shutil.rmtree(half, ignore_errors=True)
    index = bm25s.BM25(backend="numpy")
    index.index(bm25s.tokenize(texts, stopwords="en", show_progress=False), show_progress=False)
    index.save(half, corpus=texts, show_progress=False)
    (half / mark.name).write_text(digest)
    shutil.rmtree(folder, ignore_errors=True)
    half.replace(folder)
    return folder


def search_tool(folder: Path | str, *, results: int = 3, characters: int = 500, name: str = "search") -> Tool:
    """A tool that answers a query with the best documents of an index.

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
    if not (Path(folder) / "documents.sha256").is_file():
        raise ValueError(f"{folder} has no index; make one with environments.search.build_index")
    index = bm25s.BM25.load(folder, mmap=True, load_corpus=True, show_progress=False)

    def call(query: str) -> str:
        tokens = bm25s.tokenize(query, stopwords="en", show_progress=False, return_ids=False)
        wanted = min(results, len(index.corpus))
        found, scores = index.retrieve(tokens, k=wanted, show_progress=False)
        texts = [
            document["text"][:characters]
            for document, score in zip(found[0], scores[0], strict=True)
            if score > 0
        ]
        return "\n".join(f"Page {number}: {text}" for number, text in enumerate(texts, 1)) or NOTHING

    return Tool(name, call)


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
