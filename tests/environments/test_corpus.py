"""Documents: told apart by what they come from, and read when they are asked for."""

from __future__ import annotations

import json

import pytest

from gpg_jax.environments.corpus import cached_pages, corpus_in, corpus_of


def test_other_documents_have_another_digest(tmp_path):
    assert corpus_of(["a", " ", "b"])[:2] == corpus_of(["a", "b"])[:2]
    assert corpus_of(["a", "b"]).digest != corpus_of(["ab"]).digest
    path, copy, pages = (tmp_path / name for name in ("one.jsonl", "two.jsonl", "one.json"))
    for file in (path, copy, pages):
        file.write_text('{"text": "Page 1: a"}\n')
    assert corpus_in(path).digest == corpus_in(copy).digest != corpus_in(pages).digest
    assert list(corpus_in(path).read()) == ["Page 1: a"] and list(corpus_in(pages).read()) == ["a"]
    assert [corpus_in(file).name for file in (path, copy)] == ["one", "two"]
    path.write_text('{"text": "Page 1: b"}\n')
    assert corpus_in(path).digest != corpus_in(copy).digest


@pytest.mark.parametrize(
    "line", [b"no JSON", b"[1]", b'{"title": "x"}', b"3", b'{"text": null}', b'{"text": "\xff\xfe"}']
)
def test_a_line_that_is_no_document_is_named(tmp_path, line):
    path = tmp_path / "corpus.jsonl"
    path.write_bytes(b'{"text": "first"}\n\n' + line)
    with pytest.raises(ValueError, match=r"line 3 of .*corpus.jsonl is no document with a `text`"):
        list(corpus_in(path).read())
    with pytest.raises(ValueError, match="holds no documents"):
        corpus_in(tmp_path / "none.jsonl")


def test_a_search_cache_is_read(tmp_path):
    path = tmp_path / "cache.json"
    path.write_text(json.dumps({"q": "Page 1: One.\nPage 2: Two.", "r": "Page 1: One.\nunnumbered"}))
    assert cached_pages(path) == ["One.", "Two.", "unnumbered"]
    for text in ("[]", "{", '{"q": 1}'):
        path.write_text(text)
        with pytest.raises(ValueError, match="is not a search cache"):
            cached_pages(path)
