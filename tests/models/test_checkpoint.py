"""A checkpoint folder: complete, loadable without ragcun, read in every earlier form, refused where it is damaged."""

import importlib
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist
from sentence_transformers import SentenceTransformer

from benchmarks.mutations import KINDS, NOT_COVERED, failures, outcomes, tiny_checkpoint
from ragcun import HeadShape, InputError, TextBase
from ragcun.cli.main import main
from ragcun.data.overlap import HELD_OUT
from ragcun.embeddings.joined import JoinedBase
from ragcun.embeddings.lexical import LexicalChannel
from ragcun.models.checkpoint import CONFIG, OWN_SUM, description_digest
from ragcun.models.encoder import SYSTEMS, RetrievalEncoder
from ragcun.models.projection import ProjectionEncoder
from tests.models.helpers import moved, prompted

SENTENCES = ["How do I open a file?", "Return the sum of a list.", "Remove a directory.", "lock a thread", "é"]
ENCODERS: dict[str, dict[str, Any]] = {
    "residual": {"head": "residual"},
    "linear": {"head": "linear", "output_dim": 20},
    "mlp": {"head": HeadShape("mlp", 16, 10, depth=3, activation="silu")},
    "tanh": {"head": HeadShape("residual", 16, 12, depth=4, activation="tanh")},
    "length 1": {"head": "mlp", "output_dim": 7, "normalize_output": True},
    "raw": {"head": "residual", "use_predictor": True},
    "prediction": {"head": "residual", "use_predictor": True, "query_embedding": "prediction"},
    "jepa": {"system": "jepa", "output_dim": 9, "head": "residual"},
    "respred": {"system": "respred", "head": "linear"},
    "respred prediction": {"system": "respred", "query_embedding": "prediction", "output_dim": 11, "head": "residual"},
    "respred linear": {"system": "respred", "query_embedding": "prediction", "predictor": "linear"},
    "asymmetric": {"system": "asymmetric", "head": "mlp"},
    "asymmetric prediction": {"system": "asymmetric", "use_predictor": True, "query_embedding": "prediction"},
    "asymmetric minilm": {"system": "asymmetric", "head": "residual", "output_dim": 64},
}
Saved = tuple[Path, ProjectionEncoder, list[str]]


@pytest.fixture(scope="module")
def saved(tiny_bert, texts, tmp_path_factory):
    """Folder, encoder and texts of every system."""
    made: dict[str, Saved] = {}
    root = tmp_path_factory.mktemp("saved")
    for name, options in ENCODERS.items():
        torch.manual_seed(0)
        real = "minilm" in name
        base = TextBase.load("minilm", device="cpu") if real else prompted(tiny_bert, normalize=name != "raw")
        system = SYSTEMS[options.get("system", "isotropic_gaussian")]
        settings = {key: value for key, value in options.items() if key != "system"}
        encoder = moved(system(base, **settings), 0.01 if real else 0.1)
        encoder.save_pretrained(root / name)
        made[name] = root / name, encoder, SENTENCES if real else [*texts[:12], " ".join(texts[:3])]
    return made


@pytest.fixture(scope="module")
def loaded_without_ragcun(saved):
    """What plain sentence-transformers gives for every folder where ragcun cannot be imported."""
    out = {}
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in sys.modules if name.split(".")[0] == "ragcun"]:
            patch.delitem(sys.modules, name)
        patch.setitem(sys.modules, "ragcun", None)
        with pytest.raises(ImportError, match="ragcun"):
            importlib.import_module("ragcun.models")
        for name, (folder, _, some) in saved.items():
            model = SentenceTransformer(str(folder), device="cpu")
            queries, documents = model.encode_query(some), model.encode_document(some)
            out[name] = queries, documents, model.similarity(queries, documents).numpy()
    return out


@pytest.fixture
def copied(saved, tmp_path):
    """A copy of the folder of an encoder with a predictor."""
    return Path(shutil.copytree(saved["raw"][0], tmp_path / "model"))


@pytest.mark.parametrize("name", ENCODERS)
def test_loads_without_ragcun(name, saved, loaded_without_ragcun):
    _, encoder, some = saved[name]
    found = loaded_without_ragcun[name]
    queries, documents = encoder.encode_query(some), encoder.encode_document(some)
    np.testing.assert_allclose(found[0], queries, atol=1e-5)
    np.testing.assert_allclose(found[1], documents, atol=1e-5)
    np.testing.assert_allclose(found[2], -cdist(queries, documents), atol=1e-4)
    assert np.abs(queries).max() > 1e-2


@pytest.mark.parametrize("name", ENCODERS)
def test_nothing_needs_to_be_told_again(name, saved):
    folder, encoder, some = saved[name]
    again = RetrievalEncoder.from_pretrained(folder, device="cpu")
    assert type(again) is type(encoder)
    assert again.to_config() == encoder.to_config()
    for role in ("query", "document"):
        np.testing.assert_array_equal(again.encode(some, role=role), encoder.encode(some, role=role))
    assert set(again.state_dict()) == set(encoder.state_dict())
    for key, tensor in encoder.state_dict().items():
        assert torch.equal(again.state_dict()[key], tensor), key
    assert again.base.to_config() == encoder.base.to_config()
    assert again.base.fingerprint() == encoder.base.fingerprint()
    assert not again.training


def export(folder: Path, side: str, output: Path) -> None:
    main(["export", "--model_path", str(folder), "--side", side, "--output_dir", str(output)])


@pytest.mark.parametrize("name", ENCODERS)
def test_an_exported_side_encodes_everything_as_that_side(name, saved, tmp_path):
    folder, encoder, some = saved[name]
    for side in ("query", "document"):
        export(folder, side, tmp_path / side)
        model = SentenceTransformer(str(tmp_path / side), device="cpu")
        for encode in (model.encode, model.encode_query, model.encode_document):
            np.testing.assert_allclose(encode(some), encoder.encode(some, side), atol=1e-5)


@pytest.fixture
def joined(tiny_bert, texts, tmp_path):
    """Folder and encoder with a lexical channel."""
    base = JoinedBase(prompted(tiny_bert), LexicalChannel.fit(texts, 8), 0.3)
    encoder = moved(SYSTEMS["asymmetric"](base, output_dim=12))  # type: ignore[call-arg]
    encoder.save_pretrained(tmp_path / "joined")
    return tmp_path / "joined", encoder


def test_a_lexical_channel_is_saved_beside_a_plain_folder_of_the_untouched_base(joined, texts):
    folder, encoder = joined
    again = RetrievalEncoder.from_pretrained(folder, device="cpu")
    assert again.base.to_config() == encoder.base.to_config()
    assert again.base.fingerprint() == encoder.base.fingerprint()
    for role in ("query", "document"):
        np.testing.assert_array_equal(again.encode(texts[:9], role), encoder.encode(texts[:9], role))
    dense = SentenceTransformer(str(folder / "dense"), device="cpu").encode_query(texts[:9])
    untouched = encoder.base.dense.untouched_array(encoder.base.dense.encode(texts[:9], "query"))
    np.testing.assert_allclose(dense, untouched, atol=1e-6)
    with pytest.raises((OSError, ValueError)):
        SentenceTransformer(str(folder), device="cpu")
    in_memory = encoder.to_sentence_transformer()
    np.testing.assert_allclose(in_memory.encode_query(texts[:9]), encoder.encode_query(texts[:9]), atol=1e-5)
    np.testing.assert_allclose(in_memory.encode_document(texts[:9]), encoder.encode_document(texts[:9]), atol=1e-5)


def test_what_cannot_be_exported_is_one_sentence(joined, saved, copied, tmp_path, capsys):
    refused = {joined[0]: "--lexical_terms pieces", copied / "none": "no such", saved["raw"][0]: "holds files"}
    for folder, message in refused.items():
        with pytest.raises(SystemExit, match="2"):
            export(folder, "query", copied if message == "holds files" else tmp_path / "out")
        assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    RetrievalEncoder.from_pretrained(copied)


@pytest.mark.parametrize("name", ["lexical/lexical.json", "lexical/lexical.safetensors", "dense/modules.json"])
def test_another_channel_or_text_model_is_refused(joined, name):
    folder, _ = joined
    (folder / name).write_bytes((folder / name).read_bytes() + b" ")
    with pytest.raises(InputError, match=name):
        RetrievalEncoder.from_pretrained(folder)


def test_saving_a_loaded_encoder_over_itself_changes_nothing(saved, copied):
    some = saved["raw"][2]
    first = RetrievalEncoder.from_pretrained(copied)
    expected = first.encode_query(some)
    first.save_pretrained(copied)
    np.testing.assert_array_equal(first.encode_query(some), expected)
    np.testing.assert_array_equal(RetrievalEncoder.from_pretrained(copied).encode_query(some), expected)
    assert [path.name for path in copied.parent.iterdir()] == ["model"]


def _edit(change: Callable[[dict[str, Any]], Any], sign: bool = True) -> Callable[[Path], None]:
    """Return what changes the description, with a checksum that fits, so that what follows the checksum is tested."""

    def damage(folder: Path) -> None:
        config = json.loads((folder / CONFIG).read_text())
        replaced = change(config)
        if sign:
            config[OWN_SUM] = description_digest(config)
        (folder / CONFIG).write_text(json.dumps(config if replaced is None else replaced))

    return damage


DAMAGE: dict[str, Callable[[Path], Any]] = {
    "not json": lambda folder: (folder / CONFIG).write_text("{\n'a"),
    "unknown system": _edit(lambda config: config.update(system="no_such")),
    "wrong format": _edit(lambda config: config.update(format=99)),
    "field missing": _edit(lambda config: config.pop("base")),
    "unknown head field": _edit(lambda config: config["config"]["head"].update(width=3)),
    "impossible head": _edit(lambda config: config["config"]["head"].update(depth=77)),
    "head of another base": _edit(lambda config: config["config"]["head"].update(input_dim=15)),
    "no predictor": _edit(lambda config: config["config"].update(predictor=None)),
    "own checksum missing": _edit(lambda config: config.pop(OWN_SUM), sign=False),
    "another file of a module": lambda folder: (folder / "1_Pooling" / "other.json").write_text("{}"),
    "another file beside": lambda folder: (folder / "adapter_config.json").write_text("{}"),
    "another file of ours": lambda folder: (folder / "ragcun" / "more").write_text("{}"),
    "no longer a model": lambda folder: [path.unlink() for path in folder.glob("*.json")],
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_is_one_sentence(name, copied):
    DAMAGE[name](copied)
    with pytest.raises(InputError) as caught:
        RetrievalEncoder.from_pretrained(copied)
    assert "\n" not in str(caught.value)
    assert str(copied) in str(caught.value)


@pytest.mark.parametrize("whole", [True, False])
def test_a_folder_that_sentence_transformers_saved_over_is_named_and_then_a_plain_model(copied, whole):
    model = SentenceTransformer(str(copied), device="cpu")
    next(model.parameters()).data.mul_(1.5)
    model.save_pretrained(str(copied)) if whole else model[0].model.save_pretrained(copied)
    with pytest.raises(InputError, match=rf"sentence-transformers saved over it, delete {copied / 'ragcun'} .* plain"):
        RetrievalEncoder.from_pretrained(copied)
    shutil.rmtree(copied / "ragcun")
    assert TextBase.load(str(copied), device="cpu").dimension == model.get_embedding_dimension()


def test_no_mutation_of_a_checkpoint_loads(tmp_path):
    """Each file in each way at least once; the model card decides nothing and is not covered."""
    tiny_checkpoint(tmp_path / "model", 0)
    tiny_checkpoint(tmp_path / "other", 1)
    files = {str(path.relative_to(tmp_path / "model")) for path in (tmp_path / "model").rglob("*") if path.is_file()}
    assert HELD_OUT in files
    found = list(outcomes(tmp_path / "model", tmp_path / "other", len(KINDS) * len(files), seed=1))
    assert {(each.file, each.kind) for each in found} == {(file, kind) for file in files for kind in KINDS}
    assert failures(found) == []
    assert {each.file for each in found if each.result != "refused"} == set(NOT_COVERED)


def test_the_first_format_is_still_read(saved, copied):
    """It had no checksum of the description, no kinds of skip and start, and no length of the embeddings."""

    def earlier(config: dict[str, Any]) -> dict[str, Any]:
        del config[OWN_SUM], config["config"]["normalize_output"]
        for head in ("head", "predictor"):
            del config["config"][head]["matrix_skip"], config["config"][head]["start"]
        return config | {"format": 1}

    _edit(earlier, sign=False)(copied)
    (_, encoder, some), again = saved["raw"], RetrievalEncoder.from_pretrained(copied)
    np.testing.assert_array_equal(again.encode_query(some), encoder.encode_query(some))


def test_the_description_keeps_its_form(tmp_path, base):
    """Other versions read it: a name that changes here has to be read under its old name too."""
    SYSTEMS["jepa"](base, output_dim=5).save_pretrained(tmp_path / "model")  # type: ignore[call-arg]
    config = json.loads((tmp_path / "model" / CONFIG).read_text())
    assert set(config) == {"format", "files_blake2b", "system", "base", "config", "dimension", OWN_SUM}
    assert set(config["base"]) == {"name", "modules", "normalize", "ends_normalized", "distance", "trained"}
    assert config["config"]["normalize_output"] is False
    assert set(config["config"]) == {"head", "predictor", "query_embedding", "normalize_output", "target_base"}
    head = {"kind": "linear", "input_dim": 16, "output_dim": 5, "depth": 2, "expansion": 2.0, "activation": "gelu"}
    assert config["config"]["head"] == head | {"dropout": 0.0, "matrix_skip": False, "start": "preserving"}


@pytest.mark.parametrize("name", [".gitattributes", "LICENSE", "notes.md", "isotropy/isotropy.json", "1_Pooling/.x"])
def test_files_that_loading_cannot_read_may_lie_in_the_folder(copied, name):
    (copied / name).parent.mkdir(exist_ok=True)
    (copied / name).write_text("x")
    RetrievalEncoder.from_pretrained(copied)


@pytest.mark.parametrize("name", ["nothing", "file", "plain"])
def test_what_is_no_checkpoint(name, tiny_bert, tmp_path):
    path = Path(tiny_bert) if name == "plain" else tmp_path / name
    if name == "file":
        path.write_text("x")
    with pytest.raises(InputError, match="not a ragcun checkpoint" if name == "plain" else "no such checkpoint"):
        RetrievalEncoder.from_pretrained(path)
