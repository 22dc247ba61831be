"""EmbeddingCache: every text is encoded once, whoever asks, and torn writes are cut off."""

import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sentence_transformers import SentenceTransformer

from ragcun import InputError, TextBase
from ragcun.embeddings import cache as cache_module
from ragcun.embeddings.cache import KEY_BYTES, EmbeddingCache
from ragcun.embeddings.encode import cache_folder
from tests.processes import FORKED


class WatchedBase(TextBase):
    """A base that really encodes, and remembers what it was asked."""

    def __init__(self, folder: str, **options: Any) -> None:
        super().__init__(SentenceTransformer(folder, device="cpu", **options), "tiny")
        self.seen: list[str] = []

    def encode(self, texts: list[str], *arguments: Any, **options: Any) -> Any:
        self.seen.extend(texts)
        return super().encode(texts, *arguments, **options)


def encode_in_turns(model: str, folder: Path, texts: list[str], ready: Any) -> None:
    """Encode texts a few at a time, so that two processes take turns."""
    cache = EmbeddingCache(TextBase.load(model, device="cpu"), folder)
    ready.wait(120)
    for start in range(0, len(texts), 5):
        cache.encode(texts[start : start + 5], "document")


@pytest.fixture
def base(tiny_bert):
    return WatchedBase(tiny_bert)


def test_each_text_is_encoded_once(base, tiny_bert, texts, tmp_path):
    """By instances that were open before and ones opened later alike."""
    other, later = WatchedBase(tiny_bert), WatchedBase(tiny_bert)
    cache, beside = EmbeddingCache(base, tmp_path), EmbeddingCache(other, tmp_path)
    cache.encode(texts[:20] * 2, "document")
    cache.encode(texts[10:30], "document")
    beside.encode(texts[25:35], "document")
    cache.encode(texts[:36], "document")
    for name in ("sums.bin", "lock"):  # files of earlier versions
        (cache.folder / name).write_bytes(bytes(160))
    again = EmbeddingCache(later, tmp_path)
    assert len(again) == 36
    again.encode(texts[:37], "document")
    assert sorted(base.seen) == texts[:30] + texts[35:36]
    assert sorted(other.seen) == texts[30:35]
    assert later.seen == texts[36:37]
    expected = TextBase.encode(base, texts[:37], "document")
    for each in (cache, beside, again):
        np.testing.assert_allclose(each.encode(texts[:37], "document"), expected, atol=1e-6)


def test_rows_stay_where_they_are(base, texts, tmp_path):
    cache = EmbeddingCache(base, tmp_path)
    rows = cache.rows(texts[:10], "document")
    held = cache.vectors
    before = np.array(held[rows])
    cache.rows(texts[10:40], "document")
    np.testing.assert_array_equal(cache.rows(texts[:10], "document"), rows)
    np.testing.assert_array_equal(held[rows], before)
    np.testing.assert_array_equal(cache.vectors[rows], before)
    with pytest.raises(ValueError, match="read-only"):
        cache.vectors[0] = 0


@pytest.mark.parametrize(
    ("file", "change"),
    [
        *(("vectors.bin", change) for change in (-3, -64, -130, 7, 64, 200)),
        *(("keys.bin", change) for change in (-5, -KEY_BYTES, 3, KEY_BYTES, 3 * KEY_BYTES + 1)),
    ],
)
def test_torn_writes_are_cut_off(base, tiny_bert, texts, tmp_path, file, change):
    cache = EmbeddingCache(base, tmp_path)
    cache.encode(texts[:20], "document")
    path = cache.folder / file
    data = path.read_bytes()
    path.write_bytes(data[:change] if change < 0 else data + b"\xff" * change)
    later = WatchedBase(tiny_bert)
    expected = TextBase.encode(base, texts[:25], "document")
    np.testing.assert_allclose(EmbeddingCache(later, tmp_path).encode(texts[:25], "document"), expected, atol=1e-6)
    lost = {-3: 1, -64: 1, -130: 3, -5: 1, -KEY_BYTES: 1}.get(change, 0)
    assert len(later.seen) == 5 + lost
    assert (cache.folder / "keys.bin").stat().st_size == 25 * KEY_BYTES
    assert (cache.folder / "vectors.bin").stat().st_size == 25 * 64
    np.testing.assert_allclose(EmbeddingCache(base, tmp_path).encode(texts[:25], "document"), expected, atol=1e-6)


def test_roles_have_their_own_rows_where_prompts_differ(tiny_bert, texts, tmp_path):
    prompted = WatchedBase(tiny_bert, prompts={"query": "word1 ", "document": "word2 "})
    cache = EmbeddingCache(prompted, tmp_path)
    for role in ("query", "document"):
        np.testing.assert_allclose(cache.encode(texts[:5], role), TextBase.encode(prompted, texts[:5], role), atol=1e-6)
    assert not np.allclose(cache.encode(texts[:5], "query"), cache.encode(texts[:5], "document"), atol=1e-3)
    assert len(cache) == 10
    cache.encode(["word9"], "query")
    cache.encode(["word1 word9"], "document")
    assert len(cache) == 12, "a prompt is no part of the text"
    plain = EmbeddingCache(WatchedBase(tiny_bert), tmp_path / "plain")
    np.testing.assert_array_equal(plain.rows(texts[:5], "query"), plain.rows(texts[:5], "document"))


def test_odd_texts_and_no_texts(base, tmp_path):
    cache = EmbeddingCache(base, tmp_path)
    assert cache.encode([], "query").shape == (0, 16)
    odd = ["", " ", "\n", "é", "word1\0word2", "x" * 5000]
    np.testing.assert_allclose(cache.encode(odd, "query"), TextBase.encode(base, odd, "query"), atol=1e-6)
    assert cache.encode([], "query").shape == (0, 16)


def test_default_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("RAGCUN_CACHE", str(tmp_path / "here"))
    assert cache_folder() == tmp_path / "here"
    monkeypatch.delenv("RAGCUN_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "ragcun"


@pytest.mark.slow
def test_two_processes_write_at_once(tiny_bert, texts, tmp_path):
    ready = FORKED.Barrier(2)
    given = tiny_bert, tmp_path, texts[40:160][::-1], ready
    other = FORKED.Process(target=encode_in_turns, args=given, daemon=True)
    other.start()
    encode_in_turns(tiny_bert, tmp_path, texts[:120], ready)
    other.join(120)
    assert other.exitcode == 0
    base = WatchedBase(tiny_bert)
    cache = EmbeddingCache(base, tmp_path)
    assert len(cache) == 160
    vectors = cache.encode(texts[:160], "document")
    assert base.seen == []
    np.testing.assert_allclose(vectors, TextBase.encode(base, texts[:160], "document"), atol=1e-6)


def test_who_needs_the_same_texts_waits_and_gets_the_vectors_of_one_alone(tiny_bert, texts, tmp_path, monkeypatch):
    """The first is in the midst of its blocks when the second comes, which then has nothing to encode."""
    thirties = [range(start, min(start + 30, 160)) for start in range(0, 160, 30)]
    monkeypatch.setattr(cache_module, "blocks", lambda given: thirties if given else [])
    alone = EmbeddingCache(WatchedBase(tiny_bert), tmp_path / "alone", batch_size=7).encode(texts[:160], "document")
    bases = [WatchedBase(tiny_bert), WatchedBase(tiny_bert)]
    first, second = (EmbeddingCache(base, tmp_path / "both", batch_size=7) for base in bases)
    append, midst = first._append, threading.Event()

    def slowly(keys: list[bytes], vectors: NDArray[np.float32]) -> None:
        append(keys, vectors)
        midst.set()
        time.sleep(0.05)

    monkeypatch.setattr(first, "_append", slowly)
    with ThreadPoolExecutor(1) as pool:
        theirs = pool.submit(first.encode, texts[:160], "document")
        assert midst.wait(60)
        np.testing.assert_array_equal(second.encode(texts[:160], "document"), alone)
        np.testing.assert_array_equal(theirs.result(), alone)
    assert [len(base.seen) for base in bases] == [160, 0]
    vectors = np.fromfile(first.folder / "vectors.bin", np.float32).reshape(160, -1)
    np.testing.assert_array_equal(vectors, alone)


def test_damaged_keys_cost_an_encoding_and_change_no_vector(base, tiny_bert, texts, tmp_path):
    cache = EmbeddingCache(base, tmp_path)
    expected = cache.encode(texts[:20], "document")
    with (cache.folder / "keys.bin").open("r+b") as file:
        file.seek(4 * KEY_BYTES)
        file.write(bytes(3 * KEY_BYTES))
    for seen in (3, 0):
        later = WatchedBase(tiny_bert)
        np.testing.assert_allclose(EmbeddingCache(later, tmp_path).encode(texts[:20], "document"), expected, atol=1e-6)
        assert len(later.seen) == seen


@pytest.mark.parametrize("change", [{"fingerprint": "0"}, {"dimension": 17}, None])
def test_a_folder_of_another_base_is_refused(base, tiny_bert, tmp_path, change):
    path = EmbeddingCache(base, tmp_path).folder / "base.json"
    described = json.loads(path.read_text())
    path.write_text(json.dumps(change and described | change))
    with pytest.raises(InputError, match="belongs to another base"):
        EmbeddingCache(WatchedBase(tiny_bert), tmp_path)


def test_files_that_shrink_in_use_are_refused(base, texts, tmp_path):
    cache = EmbeddingCache(base, tmp_path)
    cache.encode(texts[:20], "document")
    (cache.folder / "keys.bin").write_bytes(b"")
    with pytest.raises(InputError, match="lost rows while it was in use"):
        cache.encode(texts[20:25], "document")
