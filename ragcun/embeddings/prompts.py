"""How published models are meant to be used, where their own configuration does not say."""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ragcun.distance import Distance

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

logger = logging.getLogger(__name__)

ALIASES = {"contriever": "facebook/contriever"}
"""Short names of models on the hub."""


@dataclass(frozen=True)
class Convention:
    """How the authors of some models encode texts and compare vectors.

    Attributes:
        names: the models' hub names, as a regular expression that has to match in full.
        distance: by which vectors are compared.
        query: what is put before a query.
        document: what is put before a document.
    """

    names: str
    distance: Distance
    query: str = ""
    document: str = ""


BGE_QUERY = "Represent this sentence for searching relevant passages: "
CONVENTIONS = (
    Convention(r"facebook/contriever(-msmarco)?", "dot"),
    Convention(r"intfloat/e5-(small|base|large)(-v2)?", "cosine", "query: ", "passage: "),
    Convention(r"intfloat/multilingual-e5-(small|base|large)", "cosine", "query: ", "passage: "),
    Convention(r"BAAI/bge-(small|base|large)-en(-v1\.5)?", "cosine", BGE_QUERY),
)
"""Contriever (Izacard et al., arXiv:2112.09118), E5 (Wang et al., arXiv:2212.03533), BGE (Xiao et al.,
arXiv:2309.07597), as on their model cards; names of instruction-tuned relatives do not match."""


def convention_of(hub_name: str) -> Convention | None:
    """Return the convention of a model on the hub, None where none is known.

    >>> convention_of("intfloat/e5-base-v2").query
    'query: '
    >>> convention_of("intfloat/multilingual-e5-large-instruct") is None
    True
    """
    return next((each for each in CONVENTIONS if re.fullmatch(each.names, hub_name)), None)


def apply_convention(model: SentenceTransformer, hub_name: str) -> None:
    """Give a model loaded from the hub the distance and the prompts of its convention, where it has none of its own.

    A configuration that names a distance keeps it; one that holds any prompt that is not empty keeps its prompts. The
    model then saves what was added like its own configuration.
    """
    convention = convention_of(hub_name)
    if convention is None:
        return
    added = []
    # the public property never says "none": it answers cosine and forgets that nothing was configured
    if model._similarity_fn_name is None:
        model.similarity_fn_name = convention.distance
        added.append(f"distance {convention.distance}")
    if (convention.query or convention.document) and not any(model.prompts.values()):
        model.prompts = {**model.prompts, "query": convention.query, "document": convention.document}
        added.append(f"query prompt {convention.query!r}, document prompt {convention.document!r}")
    if added:
        logger.info("%s: %s, as its authors use it; its own configuration says nothing", hub_name, "; ".join(added))
