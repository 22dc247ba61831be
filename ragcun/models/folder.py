"""An encoder's folder: a sentence-transformers model, and beside it, in ``ragcun/``, what training goes on from."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from ragcun.errors import InputError
from ragcun.files import file_sha256, read_json, replacing_folder, write_json, write_text
from ragcun.models.base import TextBase
from ragcun.models.hub import load_sentence_transformer
from ragcun.models.registry import SYSTEMS
from ragcun.models.weights import contiguous, copy_strictly

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

    from ragcun.models.encoder import RetrievalEncoder

FORMAT = 1
CONFIG = "ragcun/encoder.json"
WEIGHTS = "ragcun/parts.safetensors"


def to_sentence_transformer(encoder: RetrievalEncoder) -> SentenceTransformer:
    """Return the encoder as a sentence-transformers model of built-in modules, compared by Euclidean distance."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules import Normalize

    base = encoder.base
    modules = [*base.model, *([Normalize()] if base.normalize else []), *encoder.export_modules()]
    return SentenceTransformer(
        modules=modules,
        similarity_fn_name="euclidean",
        prompts={name: prompt or "" for name, prompt in base.model.prompts.items()},
        default_prompt_name=base.model.default_prompt_name,
        device=str(next(encoder.parameters()).device),
    )


def save_encoder(encoder: RetrievalEncoder, folder: str | Path, card: str | None = None) -> None:
    """Write the encoder's folder; it is complete or absent.

    Args:
        encoder: what to write.
        folder: where; an older folder there is replaced.
        card: the model card (README.md); None writes a minimal one.
    """
    exported = to_sentence_transformer(encoder)
    parts = encoder.own_state()
    with replacing_folder(folder) as temporary:
        exported.save_pretrained(str(temporary), create_model_card=False)
        (temporary / "ragcun").mkdir()
        save_file(contiguous(parts), temporary / WEIGHTS)
        write_json(temporary / CONFIG, _describe(encoder) | {"files_sha256": _file_hashes(temporary)})
        write_text(temporary / "README.md", card or f"# {Path(folder).name}\n\nA ragcun `{encoder.system}` encoder.\n")


def load_encoder(
    folder: str | Path, device: str | None = None, expected: type[RetrievalEncoder] | None = None
) -> RetrievalEncoder:
    """Load an encoder's folder.

    Raises:
        InputError: the folder is missing, incomplete or corrupt, or holds another system than `expected`.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"no such checkpoint folder: {folder}; give the folder that holds modules.json")
    if not is_encoder_folder(folder):
        raise InputError(f"{folder} is not a ragcun checkpoint ({CONFIG} is missing); give a folder train.py wrote")
    config = read_json(folder / CONFIG)
    try:
        system, base = SYSTEMS[config["system"]], config["base"]
        if config["format"] != FORMAT:
            raise InputError(f"{folder} has checkpoint format {config['format']}, this version reads {FORMAT}")
        if expected is not None and not issubclass(system, expected):
            raise InputError(f"{folder} holds a {config['system']!r} encoder, not {expected.system!r}")
        _check_files(folder, config["files_sha256"])
        model = load_sentence_transformer(str(folder), str(folder), device)
        text_base = TextBase(_first(model, base["modules"]), base["name"], base["normalize"], base["ends_normalized"])
        model.similarity_fn_name = base["distance"]
        encoder = system.from_config(text_base, config["config"])
        copy_strictly(encoder.own_state(), load_file(folder / WEIGHTS))
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{folder / CONFIG} is corrupt ({error!r}); copy the checkpoint again") from error
    except InputError:
        raise
    except (OSError, SafetensorError, ValueError, RuntimeError) as error:
        raise InputError(f"checkpoint {folder} is corrupt ({error}); copy it again") from error
    return encoder.to(model.device).eval()


def is_encoder_folder(path: str | Path) -> bool:
    """Whether a path is a folder that `save_encoder` wrote."""
    return (Path(path) / CONFIG).is_file()


def _file_hashes(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of every file that decides what the model computes: all but the card and `CONFIG`."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    names = {path.relative_to(folder).as_posix(): path for path in files}
    return {name: file_sha256(path) for name, path in names.items() if name not in ("README.md", CONFIG)}


def _check_files(folder: Path, expected: dict[str, str]) -> None:
    for name, digest in expected.items():
        if not (folder / name).is_file():
            raise InputError(f"checkpoint {folder} lacks {name}; copy it again")
        if file_sha256(folder / name) != digest:
            raise InputError(f"{folder / name} does not match its checksum in {CONFIG}; copy the checkpoint again")


def _describe(encoder: RetrievalEncoder) -> dict[str, Any]:
    base = encoder.base
    return {
        "format": FORMAT,
        "system": encoder.system,
        "base": {
            "name": base.name,
            "modules": len(base.model),
            "normalize": base.normalize,
            "ends_normalized": base.ends_normalized,
            "distance": base.distance,
        },
        "config": encoder.to_config(),
        "dimension": encoder.dimension,
    }


def _first(model: SentenceTransformer, count: int) -> SentenceTransformer:
    """Return the model with only its first `count` modules: the base without the head that was exported after it."""
    if not 1 <= count <= len(model):
        raise ValueError(f"{CONFIG} speaks of {count} base modules, the model has {len(model)}")
    for name in list(model._modules)[count:]:
        del model._modules[name]
    return model
