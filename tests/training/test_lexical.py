"""Training with a lexical channel: what it is fitted on, what is refused, and what its checkpoint evaluates."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ragcun import InputError, RetrievalEncoder, TrainConfig, fit, load_collection
from ragcun.data.overlap import HoldOut, read_held_out, read_seen
from ragcun.data.pairs import write_pairs
from ragcun.embeddings.joined import JoinedBase
from ragcun.embeddings.lexical import LexicalChannel
from ragcun.retrieval.systems import EncodingOptions, evaluate_retriever, open_system


@pytest.fixture
def settings(settings: dict[str, Any]) -> dict[str, Any]:
    return settings | {"lexical_dim": 8}


def joined(checkpoint: Path) -> JoinedBase:
    base = RetrievalEncoder.from_pretrained(checkpoint, "cpu").base
    assert isinstance(base, JoinedBase)
    if base.channel.analyser.pieces is None:
        assert "library_name: ragcun" in (checkpoint / "README.md").read_text()
    return base


def test_hidden_documents_and_queries_are_not_fitted_on(train, collection_folder, tmp_path):
    contents = [each.content for each in load_collection(collection_folder, "train").documents.values()]
    hidden = HoldOut(0.5, 0)
    visible = [content for content in contents if not hidden.hides(content)]
    whole = joined(train("whole", dev_fraction=0.3).checkpoint).channel
    part = joined(train("part", hold_out_documents=0.5, lexical_weight=0.25).checkpoint)
    assert (whole.documents, part.channel.documents) == (len(contents), len(visible))
    assert part.weight == 0.25
    assert read_held_out(tmp_path / "part" / "best_model") == hidden
    expected = LexicalChannel.fit(visible, 8)
    assert part.channel.vocabulary.keys() == expected.vocabulary.keys()
    ours, theirs = (channel.encode(contents, "document") for channel in (part.channel, expected))
    np.testing.assert_allclose(ours @ ours.T, theirs @ theirs.T, atol=1e-4)


def test_of_pairs_alone_positives_and_negatives_are_the_corpus(train, texts, tmp_path):
    write_pairs(tmp_path / "pairs.jsonl", [(texts[i], texts[40 + i], texts[80 + i]) for i in range(30)])
    pytest.importorskip("sentence_transformers", "6", reason="word pieces need its modules")
    base = joined(train(train_data=str(tmp_path / "pairs.jsonl"), lexical_terms="pieces").checkpoint)
    assert base.channel.documents == 60
    assert base.channel.analyser.pieces is not None
    assert 0.1 <= base.weight <= 0.5


def test_the_untouched_base_is_shown_without_the_channel(train, collection_folder, tiny_bert, tmp_path):
    options, test = EncodingOptions(str(tmp_path), device="cpu"), load_collection(collection_folder, "test")
    system = open_system(str(train(dev_beir=str(collection_folder)).checkpoint), options)
    alone = open_system(tiny_bert, options).retriever
    theirs, expected = (evaluate_retriever(each, test).per_query for each in (system.untouched_base, alone))
    assert theirs == expected
    assert evaluate_retriever(system.retriever, test).per_query != expected


def test_a_checkpoint_is_trained_further_on_its_own_channel(train):
    first = train("first").checkpoint
    again = train("again", load_checkpoint=str(first), lexical_dim=0, hold_out_documents=0.5).checkpoint
    assert joined(again).fingerprint() == joined(first).fingerprint()
    assert read_seen(again) == read_seen(first) != read_seen(train("half", hold_out_documents=0.5).checkpoint)


@pytest.mark.parametrize("trained", [{"lora_rank": 2}, {"freeze_base": False}])
def test_the_channel_stands_beside_a_trained_base(train, trained, texts):
    if "lora_rank" in trained:
        pytest.importorskip("peft")
    frozen, base = (joined(train(name, **more).checkpoint) for name, more in (("frozen", {}), ("trained", trained)))
    assert base.channel.fingerprint() == frozen.channel.fingerprint()
    before, after = (each.encode(texts, "query") for each in (frozen, base))
    size = base.dense.dimension
    np.testing.assert_array_equal(after[:, size:] / base.weight**0.5, before[:, size:] / frozen.weight**0.5)
    assert np.abs(after[:, :size] - before[:, :size]).max() > 1e-4


def test_what_cannot_be_fitted_is_one_sentence(settings, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_pairs("stop.jsonl", [(f"word{i}", "the and of " + "a " * i, None) for i in range(4)])
    with pytest.raises(InputError, match="none of 4 documents has a word"):
        fit(TrainConfig(**settings | {"train_data": "stop.jsonl"}))
    assert not (tmp_path / "checkpoints").exists()
