"""Documents of another model: the map between two spaces, what of it is trained, saved and resumed."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Dense, Normalize
from torch import nn

from ragcun import InputError, RetrievalEncoder, TextBase, load_collection
from ragcun.models.encoder import SYSTEMS as REGISTRY
from ragcun.retrieval.runs import read_run
from tests.training.runs import assert_same_run, interrupted, tensors_of

DIM = 24
SYSTEMS: dict[str, dict[str, Any]] = {
    "asymmetric": {},
    "isotropic_gaussian": {"head": "mlp"},
    "jepa": {"lambda_predictive": 10.0, "lambda_contrastive": 0.0},
    "respred": {"lambda_predictive": 1.0, "predictor": "linear"},
}
TRAINED = {"freeze_base": False, "base_learning_rate": 1e-3}


@pytest.fixture(scope="session")
def target_model(tiny_bert: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The tiny BERT's vectors rotated into 24 dimensions: another space, in a linear relation to the base's."""
    modules = list(SentenceTransformer(tiny_bert, device="cpu").children())
    torch.manual_seed(1)
    turn = nn.init.orthogonal_(torch.empty(DIM, 16))
    dense = Dense(16, DIM, True, None, turn, torch.zeros(DIM))
    model = SentenceTransformer(modules=[*modules, dense, Normalize()], device="cpu")
    model.save_pretrained(folder := str(tmp_path_factory.mktemp("target") / "large"), create_model_card=False)
    return folder


@pytest.fixture
def settings(settings: dict[str, Any], target_model: str) -> dict[str, Any]:
    return settings | {"target_model": target_model, "epochs": 2, "mined_negatives": 2}


@pytest.fixture
def prompted(target_model: str, tmp_path: Path) -> str:
    """The same with a prompt before documents."""
    model = SentenceTransformer(target_model, device="cpu", prompts={"document": "word7 "})
    model.save_pretrained(folder := str(tmp_path / "prompted"), create_model_card=False)
    return folder


def opened(run: Any) -> RetrievalEncoder:
    return RetrievalEncoder.from_pretrained(run.checkpoint, "cpu")


@pytest.mark.parametrize("system", SYSTEMS)
def test_documents_are_the_targets_and_queries_go_there(train, prompted, texts, system):
    """Whatever the system: the target's own vectors, with its own prompt; queries of its length, trained."""
    changes = SYSTEMS[system] | {"system": system, "target_model": prompted}
    trained, start = opened(train(**changes)), opened(train("start", **changes, trained_share=0.0))
    own = SentenceTransformer(prompted, device="cpu")
    np.testing.assert_allclose(trained.encode_document(texts[:9]), own.encode_document(texts[:9]), atol=1e-6)
    queries = trained.encode_query(texts[:9])
    assert queries.shape == (9, trained.dimension) == (9, DIM)
    assert np.abs(queries - start.encode_query(texts[:9])).max() > 1e-3


@pytest.mark.parametrize("how", ["frozen", "trained"])
def test_a_linear_relation_of_the_two_spaces_is_recovered(train, target_model, collection_folder, texts, how):
    """Before training, on texts that were not seen."""
    changes = {"head_init": "identity", "trained_share": 0.0}
    found = opened(train(**changes | (TRAINED if how == "trained" else {})))
    seen = {document.content for document in load_collection(collection_folder).documents.values()}
    new = [text for text in texts if text not in seen][:50]
    wanted = SentenceTransformer(target_model, device="cpu").encode(new)
    np.testing.assert_allclose(found.encode_query(new), wanted, atol=1e-3)
    assert np.abs(wanted - wanted.mean(0)).max() > 0.1


@pytest.mark.parametrize("how", [TRAINED, {"lora_rank": 2, "base_learning_rate": 1e-2}])
def test_a_trained_query_model_learns_and_documents_are_encoded_once(
    train, texts, monkeypatch, tmp_path, target_model, collection_folder, how
):
    if "lora_rank" in how:
        pytest.importorskip("peft")
    encoded: list[str] = []
    real = TextBase.encode

    def encode(self: TextBase, texts: list[str], *rest: Any) -> Any:
        encoded.extend(texts if self.name == target_model else [])
        return real(self, texts, *rest)

    monkeypatch.setattr(TextBase, "encode", encode)
    how = how | {"system": "jepa", "lambda_predictive": 1.0, "cache_dir": str(tmp_path / "cache")}
    found = opened(train(**how))
    train("judged", **how, dev_beir=str(collection_folder), never_worse=True)
    assert len(encoded) == len(set(encoded)) > 0
    monkeypatch.undo()
    own = SentenceTransformer(target_model, device="cpu").encode_document(texts[:9])
    np.testing.assert_allclose(found.encode_document(texts[:9]), own, atol=1e-6)
    before = TextBase.load(found.base.name, device="cpu").encode(texts[:9], "query")
    assert np.abs(found.base.dense.encode(texts[:9], "query") - before).max() > 1e-3


def test_queries_need_the_checkpoint_alone_and_documents_their_own_model(train, target_model, texts, tmp_path):
    """Saved again it is equal; without the target, or with other weights in its place, a sentence names it."""
    moved = shutil.copytree(target_model, tmp_path / "moved")
    run = train(target_model=str(moved))
    first = opened(run)
    queries, documents = first.encode_query(texts[:9]), first.encode_document(texts[:9])
    first.save_pretrained(tmp_path / "again")
    again = RetrievalEncoder.from_pretrained(tmp_path / "again", "cpu")
    np.testing.assert_array_equal(again.encode_query(texts[:9]), queries)
    np.testing.assert_array_equal(again.encode_document(texts[:9]), documents)
    plain = SentenceTransformer(str(run.checkpoint), device="cpu")
    np.testing.assert_allclose(plain.encode_query(texts[:9]), queries, atol=1e-5)
    moved.rename(tmp_path / "gone")
    without = opened(run)
    np.testing.assert_array_equal(without.encode_query(texts[:9]), queries)
    with pytest.raises(InputError, match="moved"):
        without.encode_document(texts[:1])
    other = SentenceTransformer(str(tmp_path / "gone"), device="cpu")
    with torch.no_grad():
        next(other.parameters()).mul_(1.01)
    other.save_pretrained(str(moved), create_model_card=False)
    with pytest.raises(InputError, match=r"moved.* other weights"):
        opened(run).encode_document(texts[:1])


def test_export_gives_the_queries_and_names_the_model_of_documents(
    train, run_script, fails_clearly, target_model, texts, tmp_path
):
    run = train(system="jepa", lambda_predictive=1.0)
    export = ("export", "--model_path", run.checkpoint, "--side")
    run_script(*export, "query", "--output_dir", tmp_path / "queries")
    plain, found = SentenceTransformer(str(tmp_path / "queries"), device="cpu"), opened(run)
    np.testing.assert_allclose(plain.encode(texts[:9]), found.encode_query(texts[:9]), atol=1e-5)
    for card in (tmp_path / "queries" / "README.md", run.checkpoint / "README.md"):
        assert target_model in card.read_text()
        assert found.base.target.digest in card.read_text()
    assert target_model in fails_clearly(*export, "document", "--output_dir", tmp_path / "no")
    assert not (tmp_path / "no").exists()


def test_resume_equals_uninterrupted(train, tmp_path):
    changes = TRAINED | {"system": "jepa", "lambda_predictive": 1.0, "state_interval": 1}
    train("whole", **changes)
    with interrupted(after=6):
        train("cut", **changes)
    train("cut", **changes, resume=True)
    assert_same_run(tmp_path / "whole", tmp_path / "cut")


def test_a_run_continues_from_its_checkpoint_which_is_no_base_or_teacher(train, target_model, texts):
    first = train()
    for name in ("base_model", "target_model", "teacher"):
        wrong: dict[str, Any] = {"target_model": None, "contrastive": "kl", "teacher": "minilm"}
        with pytest.raises(InputError, match="embeds queries alone"):
            train("wrong", **wrong | {name: str(first.checkpoint)})
    more = opened(train("more", load_checkpoint=str(first.checkpoint), target_model=None))
    own = SentenceTransformer(target_model, device="cpu")
    np.testing.assert_allclose(more.encode_document(texts[:9]), own.encode_document(texts[:9]), atol=1e-6)
    heads = [tensors_of(run) for run in (first.checkpoint, first.checkpoint.parents[1] / "more" / "best_model")]
    name = "ragcun/parts.safetensors:head.layers.0.weight"
    assert not torch.equal(heads[0][name], heads[1][name])


@pytest.mark.parametrize("how", [{}, TRAINED])
def test_evaluate_and_search_beside_both_models(
    train, run_script, target_model, collection_folder, tmp_path, tiny_bert, how
):
    run = train(**how)
    place = ("--data_dir", collection_folder.parent, "--datasets", "toy", "--device", "cpu")
    model = ("--model_path", run.checkpoint, *place)
    output = tmp_path / "results.json"
    run_script("evaluate_beir", *model, "--baseline", target_model, "--output_file", output)
    found = json.loads(output.read_text())
    assert (found["untouched_base"]["model"], found["baselines"].popitem()[1]["model"]) == (tiny_bert, target_model)
    run_script("search_corpus", *model, "--shards", 2, "--block_rows", 16, "--output_file", tmp_path / "run.trec")
    searched, evaluated = (read_run(path) for path in (tmp_path / "run.trec", tmp_path / "results.runs/toy/model.trec"))
    assert {query: list(found) for query, found in searched.items()} == {
        query: list(found) for query, found in evaluated.items()
    }


@pytest.mark.parametrize(
    "flags",
    [
        ["--lexical_dim", "8"],
        ["--output_dim", "16"],
        ["--nested_dims", "8"],
        ["--mix_with_base", ".2"],
        ["--train_side", "document"],
        ["--vectors", "folder"],
        ["--target_model", "nowhere/at/all"],
    ],
)
def test_what_would_change_documents_is_refused(settings, fails_clearly, flags, tmp_path):
    named = ("train_data", "device", "target_model")
    given = [word for name in named for word in (f"--{name}", settings[name])]
    said = fails_clearly("train", *given, *flags, "--output_dir", tmp_path / "run")
    assert flags[1] in said or flags[0] in said
    assert not (tmp_path / "run").exists()


def test_only_systems_that_keep_documents_take_a_target(train, monkeypatch):
    class Own(RetrievalEncoder):
        system = "own"

    monkeypatch.setitem(REGISTRY, "own", Own)
    with pytest.raises(InputError, match="own"):
        train(system="own")


def test_without_labels_queries_are_made_of_the_documents(train, collection_folder, target_model, texts):
    found = opened(train(train_data=None, corpus=str(collection_folder), trained_share=1.0))
    own = SentenceTransformer(target_model, device="cpu")
    np.testing.assert_allclose(found.encode_document(texts[:9]), own.encode_document(texts[:9]), atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(found.encode_query(texts[:9]), axis=1), 1, atol=1e-5)


def test_mteb_which_takes_one_model_is_refused(train, fails_clearly, tmp_path, collection_folder):
    pytest.importorskip("mteb")
    data = ("--datasets", "toy", "--data_dir", collection_folder.parent, "--output_dir", tmp_path / "mteb")
    flags = ("--model_path", train(epochs=1).checkpoint, *data, "--device", "cpu")
    assert "embeds documents" in fails_clearly("evaluate_mteb", *flags)
