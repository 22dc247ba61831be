"""Models by hub name: a server on 127.0.0.1 with the hub's layout, the hub's own cache, and authors' conventions."""

import json
import logging
import shutil
from functools import partial
from logging.handlers import BufferingHandler
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from huggingface_hub import HfApi, constants

from ragcun import InputError, IsotropicGaussianEncoder, RetrievalEncoder, TextBase, push_to_hub
from ragcun.cli.main import main
from ragcun.embeddings.hub import apply_convention, model_folder, resolve_model
from ragcun.retrieval.systems import EncodingOptions, open_system
from tests.hub import COMMIT, point_at, serving

TEXTS = ["word1 word2", "word3 word4 word5 word6 word7", "word8"]
PLAIN, OWN = "intfloat/e5-small-v2", "intfloat/e5-base"
BGE_QUERY = "Represent this sentence for searching relevant passages: "
E5_PROMPTS = ("query: ", "passage: ")


@pytest.fixture(scope="module")
def endpoint(tiny_bert):
    with serving({"models/team/tiny": Path(tiny_bert)}) as (address, _):
        yield address


def put_into_hub(cache: Path, name: str, folder: Path) -> None:
    """Lay a model folder into a hub cache under a hub name."""
    place = cache / f"models--{name.replace('/', '--')}"
    shutil.copytree(folder, place / "snapshots" / COMMIT)
    (place / "refs").mkdir()
    (place / "refs" / "main").write_text(COMMIT)


def silent(folder: str, place: Path, **settings: object) -> Path:
    """Copy a model folder whose configuration then holds nothing but `settings`."""
    shutil.copytree(folder, place)
    file = place / "config_sentence_transformers.json"
    versions = json.loads(file.read_text())["__version__"]
    file.write_text(json.dumps({"__version__": versions, **settings}))
    return place


@pytest.fixture(scope="module")
def online(endpoint, tmp_path_factory):
    """A base loaded from the server, and the hub cache that has it from then on."""
    pytest.importorskip("transformers", "5", reason="older ones read the cache's place once, when imported")
    folder = tmp_path_factory.mktemp("hub")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(constants, "HF_HUB_CACHE", str(folder))
        point_at(patch, endpoint)
        return TextBase.load("team/tiny", device="cpu"), folder


@pytest.fixture(scope="module")
def offline(tiny_bert, online, tmp_path_factory):
    """The bases of names in the hub cache, loaded without network, and what was logged."""
    folder, place = online[1], tmp_path_factory.mktemp("models")
    put_into_hub(folder, "facebook/contriever", Path(f"{tiny_bert}-bert"))
    put_into_hub(folder, PLAIN, silent(tiny_bert, place / "plain"))
    own = {"prompts": {"query": "word9 "}, "similarity_fn_name": "dot"}
    put_into_hub(folder, OWN, silent(tiny_bert, place / "own", **own))
    heard, logger = BufferingHandler(1000), logging.getLogger("ragcun.embeddings.hub")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(constants, "HF_HUB_CACHE", str(folder))
        patch.setattr(constants, "HF_HUB_OFFLINE", True)
        point_at(patch, "http://127.0.0.1:9")
        patch.setattr(logger, "handlers", [heard])
        patch.setattr(logger, "level", logging.INFO)
        bases = {name: TextBase.load(name, device="cpu") for name in ("contriever", PLAIN, OWN, "team/tiny")}
    return bases, [record.getMessage() for record in heard.buffer]


def test_a_hub_name_gives_the_folders_model_and_then_works_offline(online, offline, tiny_bert):
    here = TextBase.load(tiny_bert, device="cpu").encode(TEXTS, "query")
    for base in (online[0], offline[0]["team/tiny"]):
        np.testing.assert_array_equal(base.encode(TEXTS, "query"), here)


@pytest.mark.parametrize(("name", "asked"), [("team/other", "team/other"), ("contriever", "facebook/contriever")])
def test_an_unknown_name_and_a_hub_out_of_reach_are_input_errors(name, asked, endpoint, tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    point_at(monkeypatch, endpoint)
    with pytest.raises(InputError, match=rf"'{asked}' \(404\)"):
        TextBase.load(name)
    point_at(monkeypatch, "http://127.0.0.1:9")
    with pytest.raises(InputError, match="cannot be reached"):
        TextBase.load(name)


def test_a_convention_fills_what_a_configuration_does_not_say_and_is_logged(offline):
    bases, log = offline
    found = {name: (base.distance, base.prompt("query"), base.prompt("document")) for name, base in bases.items()}
    conventions = {"contriever": ("dot", "", ""), PLAIN: ("cosine", *E5_PROMPTS)}
    assert found == conventions | {OWN: ("dot", "word9 ", ""), "team/tiny": ("cosine", "", "")}
    assert any(line.startswith(f"{PLAIN}: distance cosine; query prompt 'query: '") for line in log)
    assert {line.split(":")[0] for line in log} == {"facebook/contriever", PLAIN}


@pytest.mark.parametrize("name", ["intfloat/e5-small-v2", "contriever"])
def test_a_folder_of_a_published_name_is_only_a_folder(name, tiny_bert, tmp_path, monkeypatch, caplog):
    silent(tiny_bert, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    with caplog.at_level(logging.INFO, logger="ragcun"):
        base = TextBase.load(name, device="cpu")
    assert (base.prompt("query"), base.prompt("document"), base.distance) == ("", "", "cosine")
    assert not [record for record in caplog.records if record.name.startswith("ragcun")]


@pytest.mark.parametrize(
    ("names", "convention"),
    [
        (["facebook/contriever", "facebook/contriever-msmarco"], ("dot", "", "")),
        ([f"intfloat/e5-{size}{v}" for size in ("small", "large") for v in ("", "-v2")], ("cosine", *E5_PROMPTS)),
        ([f"intfloat/multilingual-e5-{size}" for size in ("small", "base", "large")], ("cosine", *E5_PROMPTS)),
        ([f"BAAI/bge-{size}-en{v}" for size in ("small", "large") for v in ("", "-v1.5")], ("cosine", BGE_QUERY, "")),
        (["contriever", "e5-small", "someone/e5-small", "intfloat/e5-mistral-7b-instruct"], (None, "", "")),
        (["intfloat/multilingual-e5-large-instruct", "BAAI/bge-small-zh-v1.5", "BAAI/bge-m3"], (None, "", "")),
    ],
)
def test_known_names(names, convention):
    for name in names:
        model = SimpleNamespace(_similarity_fn_name=None, similarity_fn_name=None, prompts={})
        apply_convention(model, name)
        found = model.similarity_fn_name, model.prompts.get("query", ""), model.prompts.get("document", "")
        assert found == convention, name


def test_a_run_folder_or_a_missing_pt_file_means_the_checkpoint(tmp_path: Path, tiny_bert: str) -> None:
    folder, file = tmp_path / "run" / "best_model", tmp_path / "run" / "best_model.pt"
    IsotropicGaussianEncoder(TextBase.load(tiny_bert, device="cpu"), output_dim=8).save_pretrained(folder)
    for place in (folder.parent, file, folder):
        assert RetrievalEncoder.from_pretrained(place).dimension == 8
        assert open_system(str(place), EncodingOptions()).retriever.name == str(folder)
        assert resolve_model(str(place)) == str(folder)
    file.touch()
    for name in ("sentence-transformers/all-mpnet-base-v2", str(file), "a.pt"):
        assert model_folder(name) == name


def test_a_checkpoint_is_pushed_file_by_file_and_a_damaged_one_is_not(tiny_bert, tmp_path, monkeypatch, capsys):
    encoder = IsotropicGaussianEncoder(TextBase.load(tiny_bert, device="cpu"))
    encoder.save_pretrained(tmp_path / "run" / "best_model")
    command = ["push", "--model_path", str(tmp_path / "run"), "--repo", "team/mine"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(HfApi, "create_repo", lambda self, name, **options: f"https://hub/{name}")
        copy = partial(shutil.copytree, dst=tmp_path / "there")
        patch.setattr(HfApi, "upload_folder", lambda self, folder_path, **options: copy(folder_path))
        main(command)
    assert "https://hub/team/mine" in capsys.readouterr().out
    loaded = RetrievalEncoder.from_pretrained(tmp_path / "there")
    assert np.array_equal(loaded.encode(TEXTS), encoder.encode(TEXTS))
    point_at(monkeypatch, "http://127.0.0.1:9")
    for name in ("team/mine", "no/such/name"):
        with pytest.raises(InputError, match=name):
            push_to_hub(tmp_path / "run", name)
    (tmp_path / "run" / "best_model" / "ragcun" / "parts.safetensors").write_bytes(b"")
    with pytest.raises(InputError, match="checksum"):
        push_to_hub(tmp_path / "run", "team/mine")
    with pytest.raises(InputError, match="not a ragcun checkpoint"):
        push_to_hub(tiny_bert, "team/mine")
