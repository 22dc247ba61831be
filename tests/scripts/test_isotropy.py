"""compute_isotropy.py: a model beside its base, a published model, or a file of vectors; what is written, measured."""

import json
import shutil

import numpy as np
import pytest

from ragcun import RetrievalEncoder, TextBase, load_collection
from ragcun.isotropy import measures

PICTURES = {"spectrum.png", "norms.png", "distances.png", "hubness.png"}
PNG = b"\x89PNG\r\n\x1a\n"


def test_a_checkpoint_beside_its_base(run_script, checkpoint, tiny_bert, collection_folder, tmp_path):
    place = ("--data_dir", collection_folder.parent, "--output_dir", tmp_path / "out")
    shown = run_script("compute_isotropy", "--model_path", checkpoint, "--datasets", "toy", *place)
    report = json.loads((tmp_path / "out" / "isotropy.json").read_text())
    base, model = report["systems"]
    assert (base["untouched"], model["untouched"]) == (True, False)
    assert model["model"] == str(checkpoint)
    collection = load_collection(collection_folder, "test")
    contents = [document.content for document in collection.documents.values()]
    asked = list(collection.queries.values())
    encoder, untouched = RetrievalEncoder.from_pretrained(checkpoint, "cpu"), TextBase.load(tiny_bert, device="cpu")
    expected = (
        (model, "documents", encoder.encode_document(contents)),
        (model, "queries", encoder.encode_query(asked)),
        (base, "documents", untouched.untouched_array(untouched.encode(contents, "document"))),
    )
    for system, space, embeddings in expected:
        for name in ("isoscore", "isotropy_score", "mean_cosine", "robin_hood"):
            found = system["spaces"][space]["measures"][name]["value"]
            assert found == pytest.approx(getattr(measures, name)(embeddings), abs=1e-4), name
    assert model["pairs"]["distances"]["relevant"]["n"] == 20
    files = {path.name for path in (tmp_path / "out").iterdir()}
    assert files == PICTURES | {"isotropy.json", "isotropy.md", "pca.png"}
    assert all(path.read_bytes().startswith(PNG) for path in (tmp_path / "out").glob("*.png"))
    assert shown.startswith((tmp_path / "out" / "isotropy.md").read_text())
    assert "(untouched)" in shown


def test_texts_of_a_file_have_no_queries(run_script, tiny_bert, texts, tmp_path):
    (tmp_path / "texts.txt").write_text("\n".join(texts[:50]))
    flags = ("--model", tiny_bert, "--texts", tmp_path / "texts.txt", "--output_dir", tmp_path / "out")
    run_script("compute_isotropy", *flags)
    report = json.loads((tmp_path / "out" / "isotropy.json").read_text())
    assert report["data"] == {"name": "texts.txt", "n_documents": 50, "n_queries": 0}
    assert report["systems"][0]["spaces"].keys() == {"documents"}
    assert {path.name for path in (tmp_path / "out").glob("*.png")} == PICTURES


def test_several_datasets_have_a_folder_each(run_script, tiny_bert, collection_folder, tmp_path):
    data = tmp_path / "data"
    for name in ("one", "two"):
        shutil.copytree(collection_folder, data / name)
    flags = ("--model", tiny_bert, "--datasets", "one", "two", "--data_dir", data, "--output_dir", tmp_path / "out")
    shown = json.loads(run_script("compute_isotropy", *flags, "--json"))["datasets"]
    for name in ("one", "two"):
        written = json.loads((tmp_path / "out" / name / "isotropy.json").read_text())
        assert shown[name] == written
        (system,) = written["systems"]
        assert system["untouched"], "a published model is its own untouched row"


def test_vectors_from_anywhere_are_measured(run_script, tmp_path):
    rows = np.random.default_rng(0).standard_normal((300, 12)).astype(np.float32)
    np.save(tmp_path / "v.npy", rows)
    np.save(tmp_path / "q.npy", rows[:40] + 1)
    flags = ("--embeddings", tmp_path / "v.npy", "--query_embeddings", tmp_path / "q.npy")
    run_script("compute_isotropy", *flags, "--output_dir", tmp_path / "o")
    system = json.loads((tmp_path / "o" / "isotropy.json").read_text())["systems"][0]
    assert system["spaces"]["documents"]["measures"]["isoscore"]["value"] == pytest.approx(measures.isoscore(rows))
    assert system["spaces"]["queries"]["n"] == 40
    assert system["spaces"]["together"]["n"] == 340


def test_wrong_flags_are_refused(fails_clearly, tiny_bert, tmp_path):
    for name, rows in {"v": np.eye(4), "q": np.eye(3), "flat": np.ones(3)}.items():
        np.save(tmp_path / f"{name}.npy", rows)
    cases = {
        ("--model", tiny_bert): "--datasets or --texts",
        ("--model", "bm25", "--datasets", "toy"): "no embeddings",
        ("--embeddings", tmp_path / "v.npy", "--texts", "x.txt"): "leave out",
        ("--embeddings", tmp_path / "missing.npy"): "missing.npy",
        ("--embeddings", tmp_path / "flat.npy"): "(n, dim)",
        ("--embeddings", tmp_path / "v.npy", "--query_embeddings", tmp_path / "q.npy"): "3",
        ("--model", tiny_bert, "--datasets", "toy", "--query_embeddings", "q.npy"): "--embeddings",
    }
    for flags, message in cases.items():
        assert message in fails_clearly("compute_isotropy", *flags, "--output_dir", tmp_path / "o")
    assert not (tmp_path / "o").exists()
