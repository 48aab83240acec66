"""Search over a local corpus: found by words, saved once, never over something else."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from gpg_jax.environments.search import NOTHING, build_index, cached_pages, search_tool

DOCUMENTS = [
    "The Appalachian Trail begins at Springer Mountain in Georgia.",
    "Mount Katahdin is the highest mountain of Maine.",
    "Sergei Prokofiev wrote Peter and the Wolf.",
    "",
]


def test_the_best_document_comes_first(tmp_path):
    search = search_tool(build_index(DOCUMENTS, tmp_path / "index"), results=2)
    assert search.call("who wrote Peter and the Wolf?").startswith("Page 1: Sergei Prokofiev")
    assert search.call("highest mountain").splitlines()[0] == f"Page 1: {DOCUMENTS[1]}"
    assert len(search.call("mountain").splitlines()) == 2
    assert search.call("zebra") == NOTHING and search.call("the") == NOTHING and search.call("?!") == NOTHING


def test_a_document_is_shown_so_far(tmp_path):
    search = search_tool(build_index(DOCUMENTS, tmp_path / "index"), results=1, characters=12)
    assert search.call("Katahdin") == "Page 1: Mount Katahd"


def test_an_index_is_made_once_and_again_for_other_documents(tmp_path):
    folder = build_index(DOCUMENTS, tmp_path / "index")
    made = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    build_index(DOCUMENTS, folder)
    assert made == {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    build_index([*DOCUMENTS, "Zebras have stripes."], folder)
    assert "Zebras" in search_tool(folder).call("zebras")


def test_a_folder_with_something_else_is_left_alone(tmp_path):
    (tmp_path / "diary.txt").write_text("dear diary")
    with pytest.raises(ValueError, match="is not empty and has no index"):
        build_index(DOCUMENTS, tmp_path)
    with pytest.raises(ValueError, match="has no index"):
        search_tool(tmp_path)
    with pytest.raises(ValueError, match="no documents"):
        build_index(["", " "], tmp_path / "other")
    with pytest.raises(ValueError, match="at least 1 result"):
        search_tool(tmp_path, results=0)
    assert [path.name for path in tmp_path.iterdir()] == ["diary.txt"]


def test_a_search_cache_is_read(tmp_path):
    path = tmp_path / "cache.json"
    path.write_text(json.dumps({"q": "Page 1: One.\nPage 2: Two.", "r": "Page 1: One.\nunnumbered"}))
    assert cached_pages(path) == ["One.", "Two.", "unnumbered"]
    for text in ("[]", "{", '{"q": 1}'):
        path.write_text(text)
        with pytest.raises(ValueError, match="is not a search cache"):
            cached_pages(path)


@pytest.mark.skipif("GPG_JAX_DATA" not in os.environ, reason="reads real data")
def test_the_papers_own_cache(tmp_path):
    pages = cached_pages(Path(os.environ["GPG_JAX_DATA"]) / "arpo" / "search_cache.json")
    search = search_tool(build_index(pages, tmp_path / "index"))
    assert len(pages) > 1000 and "Ozerov" in search.call("What nationality was Yuri Ozerov?")
