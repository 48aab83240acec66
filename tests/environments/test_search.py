"""Search over a local corpus: found by words, saved once, never over something else."""

from __future__ import annotations

import json
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from gpg_jax.environments.corpus import cached_pages, corpus_in, corpus_of
from gpg_jax.environments.search import NOTHING, build_index, cached_index, load_index, search_tool

DOCUMENTS = [
    "The Appalachian Trail begins at Springer Mountain in Georgia.",
    "Mount Katahdin is the highest mountain of Maine.",
    "Sergei Prokofiev wrote Peter and the Wolf.",
    "",
]


def test_the_best_document_comes_first(tmp_path):
    search = search_tool(build_index(corpus_of(DOCUMENTS), tmp_path / "index"), results=2)
    assert search.call("who wrote Peter and the Wolf?").startswith("Page 1: Sergei Prokofiev")
    assert search.call("highest mountain").splitlines()[0] == f"Page 1: {DOCUMENTS[1]}"
    assert len(search.call("mountain").splitlines()) == 2
    assert search.call("zebra") == NOTHING and search.call("the") == NOTHING and search.call("?!") == NOTHING


def test_a_document_is_shown_so_far(tmp_path):
    search = search_tool(build_index(corpus_of(DOCUMENTS), tmp_path / "index"), results=1, characters=12)
    assert search.call("Katahdin") == "Page 1: Mount Katahd"


def test_an_index_is_made_once_and_never_taken_for_other_documents(tmp_path):
    folder = build_index(corpus_of(DOCUMENTS), tmp_path / "index")
    made = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    build_index(corpus_of(DOCUMENTS), folder)
    with pytest.raises(ValueError, match="has the index of other documents; remove it, or give"):
        build_index(corpus_of([*DOCUMENTS, "Zebras have stripes."]), folder)
    assert made == {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}


def test_indexes_of_one_name_lie_beside_each_other(tmp_path):
    zebras = [*DOCUMENTS, "Zebras have stripes."]
    first, second = (cached_index(corpus_of(documents), tmp_path) for documents in (DOCUMENTS, zebras))
    assert first != second and first == cached_index(corpus_of(DOCUMENTS), tmp_path)
    assert search_tool(first).call("zebras") == NOTHING and "stripes" in search_tool(second).call("zebras")


def test_of_equal_documents_the_first_come_first(tmp_path):
    documents = ["red house", "a house", "the house", "an old house"]
    search = search_tool(build_index(corpus_of(documents), tmp_path / "index"), results=2)
    assert search.call("house") == "Page 1: a house\nPage 2: the house"
    assert search.call("red") == "Page 1: red house"


def test_an_index_may_be_made_by_several_at_once(tmp_path):
    builders, folder = 8, tmp_path / "index"
    ready = threading.Barrier(builders)

    def build(number: int) -> Path:
        ready.wait(10)
        return build_index(corpus_of(DOCUMENTS), folder)

    with ThreadPoolExecutor(builders) as threads:
        assert set(threads.map(build, range(builders))) == {folder}
    assert [path.name for path in tmp_path.iterdir()] == ["index"]
    assert "Katahdin" in search_tool(folder).call("highest")


def test_a_search_maps_its_index_into_memory(tmp_path):
    index = load_index(build_index(corpus_of(DOCUMENTS), tmp_path / "index"))
    assert {type(index.scores[name]) for name in ("data", "indices", "indptr")} == {np.memmap}
    assert not isinstance(index.corpus, list | tuple)  # its lines are read when they are asked for


def test_documents_that_have_an_index_are_not_read_again(tmp_path):
    path = tmp_path / "corpus.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in DOCUMENTS))
    folder = build_index(corpus_in(path), tmp_path / "index")

    def read() -> list[str]:
        raise AssertionError("the documents were read")

    assert build_index(corpus_in(path)._replace(read=read), folder) == folder
    assert "Katahdin" in search_tool(folder).call("highest mountain")
    path.write_text(path.read_text() + '{"text": "Zebras have stripes."}\n')
    with pytest.raises(ValueError, match="has the index of other documents"):
        build_index(corpus_in(path), folder)


def test_of_several_at_once_each_reads_its_own_document(tmp_path, monkeypatch):
    def get_line(path, index, mmindex, *, mmap_obj, **others):
        """The library's own, which moves and then reads, with time for another thread in between."""
        mmap_obj.seek(mmindex[index])
        time.sleep(1e-3)
        return mmap_obj.readline().decode()

    monkeypatch.setattr("bm25s.utils.corpus.get_line", get_line)
    words = [f"word{number}" for number in range(50)]
    search = search_tool(build_index(corpus_of(words), tmp_path / "index"), results=1)
    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(search.call, words * 3)) == [f"Page 1: {word}" for word in words * 3]


def test_a_folder_with_something_else_is_left_alone(tmp_path):
    (tmp_path / "diary.txt").write_text("dear diary")
    with pytest.raises(ValueError, match="is not empty and has no index"):
        build_index(corpus_of(DOCUMENTS), tmp_path)
    with pytest.raises(ValueError, match="has no index"):
        search_tool(tmp_path)
    with pytest.raises(ValueError, match="no documents"):
        build_index(corpus_of(["", " "]), tmp_path / "other")
    with pytest.raises(ValueError, match="at least 1 result"):
        search_tool(tmp_path, results=0)
    assert [path.name for path in tmp_path.iterdir()] == ["diary.txt"]


@pytest.mark.skipif("GPG_JAX_DATA" not in os.environ, reason="reads real data")
def test_the_papers_own_cache(tmp_path):
    pages = cached_pages(Path(os.environ["GPG_JAX_DATA"]) / "arpo" / "search_cache.json")
    search = search_tool(build_index(corpus_of(pages), tmp_path / "index"))
    assert len(pages) > 1000 and "Ozerov" in search.call("What nationality was Yuri Ozerov?")
