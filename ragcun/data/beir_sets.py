"""The sets of BEIR by name (Thakur et al., NeurIPS 2021).

MS MARCO and the 18 sets that BEIR evaluates without training on them: 19 names. 15 are there to download, 4 need an
agreement with their owners. One of them, CQADupStack, is 12 forums, which count as one set.
"""

from __future__ import annotations

from dataclasses import dataclass

QUICK_SETS = ("scifact", "nfcorpus", "arguana", "fiqa", "scidocs")
"""Sets that a CPU can do, none of which the models called all-* were trained on."""
FORUMS = (
    "android", "english", "gaming", "gis", "mathematica", "physics",
    "programmers", "stats", "tex", "unix", "webmasters", "wordpress",
)  # fmt: skip

PART_OF = "part_of"
"""In what results say about a collection: the set that it is a part of. Such a one does not count in an average."""


@dataclass(frozen=True)
class BeirSet:
    """What BEIR publishes of a set.

    Attributes:
        name: of its archive and its folder.
        queries: judged queries of the split that is evaluated, over all parts.
        md5: of its archive; None where there is none to download.
        split: what is evaluated.
        parts: the folders that it is made of; none where it is one collection.
        source: who to ask for it, where there is nothing to download.
    """

    name: str
    queries: int
    md5: str | None = None
    split: str = "test"
    parts: tuple[str, ...] = ()
    source: str = ""


_PUBLISHED = (
    BeirSet("msmarco", 6980, "444067daf65d982533ea17ebd59501e4", split="dev"),
    BeirSet("trec-covid", 50, "ce62140cb23feb9becf6270d0d1fe6d1"),
    BeirSet("nfcorpus", 323, "a89dba18a62ef92f7d323ec890a0d38d"),
    BeirSet("bioasq", 500, source="http://bioasq.org"),
    BeirSet("nq", 3452, "d4d3d2e48787a744b6f6e691ff534307"),
    BeirSet("hotpotqa", 7405, "f412724f78b0d91183a0e86805e16114"),
    BeirSet("fiqa", 648, "17918ed23cd04fb15047f73e6c3bd9d9"),
    BeirSet("signal1m", 97, source="https://research.signal-ai.com/datasets/signal1m-tweetir.html"),
    BeirSet("trec-news", 57, source="https://trec.nist.gov/data/news2019.html"),
    BeirSet("robust04", 249, source="https://trec.nist.gov/data/robust/04.guidelines.html"),
    BeirSet("arguana", 1406, "8ad3e3c2a5867cdced806d6503f29b99"),
    BeirSet("webis-touche2020", 49, "46f650ba5a527fc69e0a6521c5a23563"),
    BeirSet("cqadupstack", 13145, "4e41456d7df8ee7760a7f866133bda78", parts=FORUMS),
    BeirSet("quora", 10000, "18fb154900ba42a600f84b839c173167"),
    BeirSet("dbpedia-entity", 400, "c2a39eb420a3164af735795df012ac2c"),
    BeirSet("scidocs", 1000, "38121350fc3a4d2f48850f6aff52e4a9"),
    BeirSet("fever", 6666, "5a818580227bfb4b35bb6fa46d9b6c03"),
    BeirSet("climate-fever", 1535, "8b66f0a9126c521bae2bde127b4dc99d"),
    BeirSet("scifact", 300, "5f7d1de60b170fc8027bb7898e2efca1"),
)
SETS = {beir_set.name: beir_set for beir_set in _PUBLISHED}
"""Every set, with the checksums and counts of the table in BEIR's description (beir 2.2.0)."""
