"""An encoder's folder: complete, loadable without ragcun, and refused where it is damaged."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from scipy.spatial.distance import cdist
from sentence_transformers import SentenceTransformer

from ragcun.embeddings.text_base import TextBase
from ragcun.errors import InputError
from ragcun.models import encoder as encoders
from ragcun.models.checkpoint import CONFIG, OWN_SUM, WEIGHTS, description_digest, is_checkpoint
from ragcun.models.encoder import RetrievalEncoder
from ragcun.models.heads import HeadShape
from ragcun.models.systems import IsotropicGaussianEncoder

PROMPTS = {"query": "word1 ", "document": "word2 "}
SENTENCES = ["How do I open a file?", "Return the sum of a list.", "Remove a directory.", "lock a thread", "é"]
SYSTEMS: dict[str, dict[str, Any]] = {
    "residual": {"head": "residual"},
    "linear": {"head": "linear", "output_dim": 20},
    "mlp": {"head": HeadShape("mlp", 16, 10, depth=3, activation="silu")},
    "tanh": {"head": HeadShape("residual", 16, 12, depth=4, activation="tanh")},
    "raw": {"head": "residual", "use_predictor": True},
    "minilm": {"head": "residual", "use_predictor": True},
    "prediction": {"head": "residual", "use_predictor": True, "query_embedding": "prediction"},
    "jepa": {"system": "jepa", "output_dim": 9},
    "jepa minilm": {"system": "jepa", "query_embedding": "prediction"},
    "respred": {"system": "respred", "head": "linear"},
    "respred prediction": {"system": "respred", "query_embedding": "prediction", "output_dim": 11},
    "respred linear minilm": {"system": "respred", "query_embedding": "prediction", "predictor": "linear"},
    "asymmetric": {"system": "asymmetric", "head": "mlp"},
    "asymmetric prediction": {"system": "asymmetric", "use_predictor": True, "query_embedding": "prediction"},
    "asymmetric minilm": {"system": "asymmetric", "output_dim": 64},
}

WITHOUT_RAGCUN = """
import json, sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "ragcun":
            raise ImportError("ragcun is not here")

sys.meta_path.insert(0, Refuse())
try:
    import ragcun
except ImportError:
    pass
else:
    sys.exit("ragcun could be imported")
import numpy as np
from sentence_transformers import SentenceTransformer

for folder, job in json.load(open(sys.argv[1])).items():
    model = SentenceTransformer(folder, device="cpu")
    queries, documents = model.encode_query(job["texts"]), model.encode_document(job["texts"])
    np.savez(job["out"], queries=queries, documents=documents, similarity=model.similarity(queries, documents).numpy())
assert "ragcun" not in sys.modules
"""


def moved(encoder: IsotropicGaussianEncoder, scale: float = 0.1, seed: int = 5) -> IsotropicGaussianEncoder:
    """Move all parts away from their start."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for part in encoder.parts().values():
            for parameter in part.parameters():
                parameter.add_(scale * torch.randn(parameter.shape, generator=generator))
    return encoder


def prompted(tiny_bert: str, normalize: bool = True) -> TextBase:
    """Return the tiny base with prompts, a length limit of its own, and max pooling."""
    from sentence_transformers.sentence_transformer.modules import Pooling

    model = SentenceTransformer(tiny_bert, device="cpu")
    modules = [model[0], Pooling(16, pooling_mode="max"), model[2]]
    model = SentenceTransformer(modules=modules, device="cpu", prompts=PROMPTS)
    model.max_seq_length = 9
    return TextBase(model, "tiny", normalize)


@pytest.fixture(scope="module")
def saved(
    tiny_bert: str, texts: list[str], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, tuple[Path, IsotropicGaussianEncoder, list[str]]]:
    """Folder, encoder and texts of every system."""
    made = {}
    root = tmp_path_factory.mktemp("saved")
    for name, options in SYSTEMS.items():
        torch.manual_seed(0)
        real = "minilm" in name
        base = TextBase.load("minilm", device="cpu") if real else prompted(tiny_bert, name != "raw")
        system = encoders.SYSTEMS[options.get("system", "isotropic_gaussian")]
        settings = {key: value for key, value in options.items() if key != "system"}
        encoder = moved(system(base, **settings), 0.01 if real else 0.1)
        encoder.save_pretrained(root / name)
        made[name] = root / name, encoder, SENTENCES if real else [*texts[:12], " ".join(texts[:3])]
    return made


@pytest.fixture(scope="module")
def loaded_without_ragcun(
    saved: dict[str, tuple[Path, IsotropicGaussianEncoder, list[str]]], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, dict[str, np.ndarray]]:
    """What plain sentence-transformers gives for every folder, in a process that cannot import ragcun."""
    place = tmp_path_factory.mktemp("elsewhere")
    jobs = {
        str(folder): {"texts": some, "out": str(place / f"{name}.npz")} for name, (folder, _, some) in saved.items()
    }
    (place / "jobs.json").write_text(json.dumps(jobs))
    command = [sys.executable, "-I", "-c", WITHOUT_RAGCUN, str(place / "jobs.json")]
    done = subprocess.run(command, cwd=place, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return {name: dict(np.load(place / f"{name}.npz")) for name in saved}


@pytest.fixture(scope="module")
def healthy(
    saved: dict[str, tuple[Path, IsotropicGaussianEncoder, list[str]]],
) -> tuple[Path, IsotropicGaussianEncoder, list[str]]:
    return saved["raw"]


@pytest.mark.parametrize("name", SYSTEMS)
def test_loads_without_ragcun(
    name: str,
    saved: dict[str, tuple[Path, IsotropicGaussianEncoder, list[str]]],
    loaded_without_ragcun: dict[str, dict[str, np.ndarray]],
) -> None:
    _, encoder, some = saved[name]
    found = loaded_without_ragcun[name]
    queries, documents = encoder.encode_query(some), encoder.encode_document(some)
    np.testing.assert_allclose(found["queries"], queries, atol=1e-5)
    np.testing.assert_allclose(found["documents"], documents, atol=1e-5)
    np.testing.assert_allclose(found["similarity"], -cdist(queries, documents), atol=1e-4)
    assert np.abs(queries).max() > 1e-2


@pytest.mark.parametrize("name", SYSTEMS)
def test_nothing_needs_to_be_told_again(
    name: str, saved: dict[str, tuple[Path, IsotropicGaussianEncoder, list[str]]]
) -> None:
    folder, encoder, some = saved[name]
    again = RetrievalEncoder.from_pretrained(folder, device="cpu")
    assert type(again) is type(encoder)
    assert again.to_config() == encoder.to_config()
    for role in ("query", "document"):
        np.testing.assert_array_equal(again.encode(some, role=role), encoder.encode(some, role=role))
    for key, tensor in encoder.state_dict().items():
        assert torch.equal(again.state_dict()[key], tensor), key
    assert set(again.state_dict()) == set(encoder.state_dict())
    assert again.base.normalize == encoder.base.normalize
    assert again.base.ends_normalized == encoder.base.ends_normalized
    assert again.base.distance == encoder.base.distance
    assert again.base.name == encoder.base.name
    assert again.base.model.max_seq_length == encoder.base.model.max_seq_length
    assert again.base.fingerprint() == encoder.base.fingerprint()
    assert not again.training


def test_predictor_is_kept(healthy: tuple[Path, IsotropicGaussianEncoder, list[str]]) -> None:
    folder, encoder, _ = healthy
    again = IsotropicGaussianEncoder.from_pretrained(folder)
    assert isinstance(again, IsotropicGaussianEncoder)
    x = torch.randn(3, 16, generator=torch.Generator().manual_seed(0))
    assert torch.equal(again.predictor(x), encoder.eval().predictor(x))
    assert not torch.equal(again.predictor(x), x)


def test_prompts_and_length_are_kept(
    saved: dict[str, tuple[Path, IsotropicGaussianEncoder, list[str]]], tiny_bert: str
) -> None:
    folder, _, some = saved["residual"]
    again = RetrievalEncoder.from_pretrained(folder)
    assert again.base.prompt("query") == "word1 "
    assert again.base.prompt("document") == "word2 "
    assert again.base.model.max_seq_length == 9
    assert not np.allclose(again.encode_query(some), again.encode_document(some), atol=1e-3)
    plain = SentenceTransformer(str(folder), device="cpu")
    assert plain.max_seq_length == 9
    np.testing.assert_allclose(plain.encode_query(some), again.encode_query(some), atol=1e-5)
    np.testing.assert_allclose(plain.encode_document(some), again.encode_document(some), atol=1e-5)
    untouched = prompted(tiny_bert)
    published = untouched.untouched_array(untouched.encode(some, "query"))
    np.testing.assert_array_equal(again.base.untouched_array(again.base.encode(some, "query")), published)


def test_saving_a_loaded_encoder_over_itself_changes_nothing(
    healthy: tuple[Path, IsotropicGaussianEncoder, list[str]], tmp_path: Path
) -> None:
    folder, _, some = healthy
    shutil.copytree(folder, tmp_path / "copy")
    first = RetrievalEncoder.from_pretrained(tmp_path / "copy")
    expected = first.encode_query(some)
    first.save_pretrained(tmp_path / "copy")
    np.testing.assert_array_equal(first.encode_query(some), expected)
    np.testing.assert_array_equal(RetrievalEncoder.from_pretrained(tmp_path / "copy").encode_query(some), expected)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["copy"]


def test_saving_leaves_the_encoder_as_it_was(tiny_bert: str, tmp_path: Path) -> None:
    encoder = moved(IsotropicGaussianEncoder(TextBase.load(tiny_bert, device="cpu")))
    encoder.base.freeze(False, 1)
    encoder.train()
    modes = [module.training for module in encoder.modules()]
    trained = [parameter.requires_grad for parameter in encoder.parameters()]
    modules = len(encoder.base.model)
    encoder.save_pretrained(tmp_path / "model")
    assert [module.training for module in encoder.modules()] == modes
    assert [parameter.requires_grad for parameter in encoder.parameters()] == trained
    assert len(encoder.base.model) == modules
    assert encoder.base.distance == "cosine"


def test_card_is_written(tiny_bert: str, tmp_path: Path) -> None:
    encoder = IsotropicGaussianEncoder(TextBase.load(tiny_bert, device="cpu"))
    encoder.save_pretrained(tmp_path / "a", card="# given\n")
    encoder.save_pretrained(tmp_path / "b")
    assert (tmp_path / "a" / "README.md").read_text() == "# given\n"
    assert "isotropic_gaussian" in (tmp_path / "b" / "README.md").read_text()
    assert is_checkpoint(tmp_path / "a")
    assert not is_checkpoint(tmp_path)


@pytest.mark.parametrize("exists", [True, False])
def test_a_save_that_fails_leaves_what_was_there(
    tiny_bert: str, texts: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exists: bool
) -> None:
    encoder = moved(IsotropicGaussianEncoder(TextBase.load(tiny_bert, device="cpu")))
    expected = encoder.encode_query(texts[:3])
    if exists:
        encoder.save_pretrained(tmp_path / "model")
    moved(encoder, seed=6)

    def fail(self: object) -> dict[str, Any]:
        raise RuntimeError("the disk is full")

    monkeypatch.setattr(IsotropicGaussianEncoder, "to_config", fail)
    with pytest.raises(RuntimeError, match="disk is full"):
        encoder.save_pretrained(tmp_path / "model")
    monkeypatch.undo()
    assert [path.name for path in tmp_path.iterdir()] == (["model"] if exists else [])
    if exists:
        again = RetrievalEncoder.from_pretrained(tmp_path / "model")
        np.testing.assert_array_equal(again.encode_query(texts[:3]), expected)


def _edit(change: Callable[[dict[str, Any]], Any], sign: bool = True) -> Callable[[Path], None]:
    """Return what changes the description, with a checksum that fits, so that what follows the checksum is tested."""

    def damage(folder: Path) -> None:
        config = json.loads((folder / CONFIG).read_text())
        replaced = change(config)
        if sign:
            config[OWN_SUM] = description_digest(config)
        (folder / CONFIG).write_text(json.dumps(config if replaced is None else replaced))

    return damage


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-7] ^= 4
    path.write_bytes(bytes(data))


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-50])


def _others_parts(folder: Path) -> None:
    other = RetrievalEncoder.from_pretrained(folder)
    assert isinstance(other, IsotropicGaussianEncoder)
    moved(other, seed=9).save_pretrained(folder.parent / "other")
    shutil.copy(folder.parent / "other" / WEIGHTS, folder / WEIGHTS)


DAMAGE: dict[str, Callable[[Path], None]] = {
    "parts missing": lambda folder: (folder / WEIGHTS).unlink(),
    "parts truncated": lambda folder: _truncate(folder / WEIGHTS),
    "parts empty": lambda folder: (folder / WEIGHTS).write_bytes(b""),
    "parts flipped": lambda folder: _flip(folder / WEIGHTS),
    "parts of another": _others_parts,
    "base truncated": lambda folder: _truncate(next(folder.rglob("model.safetensors"))),
    "not json": lambda folder: (folder / CONFIG).write_text("{\n'a"),
    "a list": _edit(lambda config: [config]),
    "null": lambda folder: (folder / CONFIG).write_text("null"),
    "unknown system": _edit(lambda config: config.update(system="no_such")),
    "system of a wrong type": _edit(lambda config: config.update(system=["x"])),
    "wrong format": _edit(lambda config: config.update(format=99)),
    "field missing": _edit(lambda config: config.pop("base")),
    "base of a wrong type": _edit(lambda config: config.update(base=3)),
    "unknown head field": _edit(lambda config: config["config"]["head"].update(width=3)),
    "impossible head": _edit(lambda config: config["config"]["head"].update(depth=77)),
    "other head": _edit(lambda config: config["config"]["head"].update(depth=3)),
    "head of another base": _edit(lambda config: config["config"]["head"].update(input_dim=15)),
    "no predictor": _edit(lambda config: config["config"].update(predictor=None)),
    "no modules": _edit(lambda config: config["base"].update(modules=0)),
    "own checksum missing": _edit(lambda config: config.pop(OWN_SUM), sign=False),
    "another file of a module": lambda folder: (folder / "1_Pooling" / "other.json").write_text("{}"),
    "another file beside": lambda folder: (folder / "adapter_config.json").write_text("{}"),
    "another file of ours": lambda folder: (folder / "ragcun" / "more").write_text("{}"),
    "config gone": lambda folder: (folder / CONFIG).unlink(),
    "no longer a model": lambda folder: [path.unlink() for path in folder.glob("*.json")] and None,
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_is_one_sentence(
    name: str, healthy: tuple[Path, IsotropicGaussianEncoder, list[str]], tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(healthy[0], folder)
    DAMAGE[name](folder)
    with pytest.raises(InputError) as caught:
        RetrievalEncoder.from_pretrained(folder)
    assert "\n" not in str(caught.value)
    assert str(folder) in str(caught.value)


def test_a_flipped_bit_in_the_bases_weights_is_found(
    healthy: tuple[Path, IsotropicGaussianEncoder, list[str]], tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(healthy[0], folder)
    _flip(folder / "model.safetensors")
    with pytest.raises(InputError):
        RetrievalEncoder.from_pretrained(folder)


def test_no_file_can_be_lost_in_silence(
    healthy: tuple[Path, IsotropicGaussianEncoder, list[str]], tmp_path: Path
) -> None:
    """Without any one of its files a folder gives the same embeddings or an InputError, never other embeddings."""
    source, encoder, some = healthy
    silent = []
    for path in sorted(path.relative_to(source) for path in source.rglob("*") if path.is_file()):
        folder = tmp_path / "model"
        shutil.copytree(source, folder)
        (folder / path).unlink()
        try:
            again = RetrievalEncoder.from_pretrained(folder, device="cpu")
            same = all(np.array_equal(again.encode(some, role=r), encoder.encode(some, role=r)) for r in PROMPTS)
            silent += [] if same else [str(path)]
        except InputError:
            pass
        shutil.rmtree(folder)
    assert silent == []


@pytest.mark.parametrize("key", ["dimension", "base", "config", "system", "format", "files_blake2b"])
def test_a_description_that_was_changed_does_not_match_its_checksum(
    healthy: tuple[Path, IsotropicGaussianEncoder, list[str]], tmp_path: Path, key: str
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(healthy[0], folder)
    _edit(lambda config: config.update({key: config[key]}), sign=False)(folder)
    RetrievalEncoder.from_pretrained(folder)
    other = {"dimension": 15, "system": "jepa", "format": 1}.get(key, {})
    _edit(lambda config: config.update({key: other}), sign=False)(folder)
    with pytest.raises(InputError, match=r"does not match its own checksum|corrupt"):
        RetrievalEncoder.from_pretrained(folder)


def test_the_first_format_is_still_read(
    healthy: tuple[Path, IsotropicGaussianEncoder, list[str]], tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(healthy[0], folder)
    _edit(lambda config: {**{k: v for k, v in config.items() if k != OWN_SUM}, "format": 1}, sign=False)(folder)
    again = RetrievalEncoder.from_pretrained(folder)
    np.testing.assert_array_equal(again.encode_query(healthy[2]), healthy[1].encode_query(healthy[2]))


@pytest.mark.parametrize("name", [".gitattributes", "LICENSE", "notes.md", "isotropy/isotropy.json", "1_Pooling/.x"])
def test_files_that_loading_cannot_read_may_lie_in_the_folder(
    healthy: tuple[Path, IsotropicGaussianEncoder, list[str]], tmp_path: Path, name: str
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(healthy[0], folder)
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text("x")
    RetrievalEncoder.from_pretrained(folder)


@pytest.mark.parametrize("name", ["nothing", "file", "plain"])
def test_what_is_no_checkpoint(name: str, tiny_bert: str, tmp_path: Path) -> None:
    path = Path(tiny_bert) if name == "plain" else tmp_path / name
    if name == "file":
        path.write_text("x")
    with pytest.raises(InputError, match="not a ragcun checkpoint" if name == "plain" else "no such checkpoint") as e:
        RetrievalEncoder.from_pretrained(path)
    assert "\n" not in str(e.value)


def test_parts_hold_head_and_predictor_and_no_base(
    healthy: tuple[Path, IsotropicGaussianEncoder, list[str]],
) -> None:
    folder, encoder, _ = healthy
    parts = load_file(folder / WEIGHTS)
    assert set(parts) == {name for name in encoder.state_dict() if name.startswith(("head.", "predictor."))}
    assert not list(folder.rglob("*.bin")) + list(folder.rglob("*.pt")) + list(folder.rglob("*.pkl"))
