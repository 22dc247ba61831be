"""A corpus of the docstrings of installed Python sources, parsed and never imported: the summary is the query."""

from __future__ import annotations

import ast
import functools
import hashlib
import logging
import multiprocessing
import os
import re
import sysconfig
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import NamedTuple

from tqdm.auto import tqdm

from ragcun.data.beir import Document, Qrels
from ragcun.data.pairs import split_by_shares
from ragcun.data.records import is_encodable
from ragcun.errors import InputError

logger = logging.getLogger(__name__)

SUMMARY_WORDS = range(4, 31)  # fewer do not say what is sought, more are no query
FEWEST_REST_WORDS = 15
FILES_PER_PROCESS = 256  # how many source files make a further process worth its start
_IS_PUBLIC = re.compile(r"(?!_|(tests?|testing|conftest|test_.*|.*_test)$)").match
_SENTENCE_END = re.compile(r"(?<!e\.g)(?<!i\.e)(?<!etc)(?<!vs)[.!?]\s+(?=[A-Z`\"'(*])")
_Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


class DocEntry(NamedTuple):
    """The documentation of one function, class or method."""

    name: str
    summary: str
    signature: str
    rest: str  # the docstring without its summary


def module_entries(module: tuple[str, Path]) -> list[DocEntry]:
    """Return what a module, ``(dotted name, path)``, documents; nothing where the file is not UTF-8 Python."""
    name, path = module
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(path.read_text(encoding="utf-8-sig"))
    except (SyntaxError, ValueError, RecursionError):
        return []
    return [entry for title, node in _definitions(tree, name) if (entry := _entry(title, node))]


def _definitions(parent: ast.AST, prefix: str) -> Iterator[tuple[str, _Definition]]:
    """Yield the public functions and classes of a module or class, those under if, try and with included."""
    for node in ast.iter_child_nodes(parent):
        if isinstance(node, _Definition):
            if not node.name.startswith("_"):
                yield f"{prefix}.{node.name}", node
                if isinstance(node, ast.ClassDef):
                    yield from _definitions(node, f"{prefix}.{node.name}")
        elif isinstance(node, ast.stmt | ast.ExceptHandler):
            yield from _definitions(node, prefix)


def _entry(name: str, node: _Definition) -> DocEntry | None:
    docstring = ast.get_docstring(node) or ""
    summary, rest = split_docstring(docstring)
    if not is_encodable(docstring) or summary.startswith((f"{node.name}(", ":", ">>>")):
        return None
    if len(summary.split()) not in SUMMARY_WORDS or len(rest.split()) < FEWEST_REST_WORDS:
        return None
    return DocEntry(name, summary, _signature(node), rest)


def split_docstring(docstring: str) -> tuple[str, str]:
    """Return the summary (the first sentence of the first paragraph, on one line) and the rest of a docstring."""
    paragraph, _, rest = docstring.strip().partition("\n\n")
    if end := _SENTENCE_END.search(paragraph):
        paragraph, rest = paragraph[: end.start() + 1], f"{paragraph[end.end() :]}\n\n{rest}"
    return " ".join(paragraph.split()), rest.strip()


def _signature(node: _Definition) -> str:
    """Return ``name(arguments)`` without self or cls; a class has those of its own __init__."""
    function: ast.AST | None = node
    if isinstance(node, ast.ClassDef):
        function = next((child for child in node.body if getattr(child, "name", "") == "__init__"), None)
    if not isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
        return f"{node.name}()"
    return f"{node.name}({re.sub(r'^(self|cls)(, |$)', '', ast.unparse(function.args))})"


def python_doc_roots() -> list[Path]:
    """Return the standard library's folder and site-packages of the running interpreter."""
    paths = sysconfig.get_paths()
    return [Path(path) for path in dict.fromkeys(paths[key] for key in ("stdlib", "purelib", "platlib"))]


def extract(roots: Sequence[str | Path], packages: Sequence[str] | None = None) -> list[DocEntry]:
    """Return the documentation of the public functions, classes and methods under `roots`, by qualified name.

    Tests, private names, nested functions, sources that do not parse and very short or long docstrings are left out. Of
    modules of one name the first root's counts; `packages` are the top-level names to take, None takes all.
    """
    files = _module_files(roots, packages)
    absent = sorted(set(packages or ()) - {name.partition(".")[0] for name in files})
    if absent:
        raise InputError(f"no Python sources of the package {absent[0]!r} are installed; name installed packages")
    processes = min(os.cpu_count() or 1, 1 + len(files) // FILES_PER_PROCESS)
    with ProcessPoolExecutor(processes, multiprocessing.get_context("spawn")) as pool:  # starts none unless it is used
        several = functools.partial(pool.map, chunksize=16)
        parsed = (several if processes > 1 else map)(module_entries, files.items())
        of_files = tqdm(parsed, desc="parse", total=len(files), unit="file", delay=2, leave=False)
        found = distinct(entry for entries in of_files for entry in entries)
    if not found:
        raise InputError(f"no documented function or class in {', '.join(map(str, roots))}; name other packages")
    logger.info("%d source files, %d documents", len(files), len(found))
    return found


def distinct(entries: Iterable[DocEntry]) -> list[DocEntry]:
    """Return the entries whose query has one answer, by qualified name.

    Of entries with the same name or the same rest the first by name stays; then summaries that several share (but for
    case) are dropped with all their entries, and so are those whose rest repeats the summary.
    """
    by_rest: dict[str, DocEntry] = {}
    by_name = {entry.name: entry for entry in reversed(list(entries))}
    for _, entry in sorted(by_name.items()):
        by_rest.setdefault(" ".join(entry.rest.split()), entry)
    shared = Counter(entry.summary.casefold() for entry in by_rest.values())
    return [
        entry
        for rest, entry in by_rest.items()
        if shared[entry.summary.casefold()] == 1 and entry.summary.casefold() not in rest.casefold()
    ]


def build(
    entries: Sequence[DocEntry], max_documents: int | None, seed: int, split: Sequence[float] = (0.8, 0.1, 0.1)
) -> tuple[dict[str, Document], dict[str, str], dict[str, Qrels]]:
    """Return documents and queries by id, and qrels for train, dev and test, split by document.

    Documents are taken in the order of a hash of seed and name, so that a sample is part of every larger one. Splits
    without documents are absent. A query's id is ``query:NAME``, because BEIR skips documents with the query's id.
    """
    drawn = sorted(entries, key=lambda entry: hashlib.sha256(f"{seed} {entry.name}".encode()).digest())[:max_documents]
    parts = split_by_shares(drawn, split).items()
    qrels = {name: {f"query:{entry.name}": {entry.name: 1} for entry in part} for name, part in parts if part}
    drawn.sort(key=lambda entry: entry.name)
    documents = {entry.name: Document(entry.name, f"{entry.signature}\n{entry.rest}") for entry in drawn}
    return documents, {f"query:{entry.name}": entry.summary for entry in drawn}, qrels


def _module_files(roots: Sequence[str | Path], packages: Sequence[str] | None) -> dict[str, Path]:
    """Return the source file of every public module that is no test, by dotted name in order."""
    files: dict[str, Path] = {}
    for root in map(Path, roots):
        if not root.is_dir():
            raise InputError(f"no such folder: {root}; name a folder of Python packages")
        names = ["**/*"] if packages is None else filter(str.isidentifier, packages)
        for path in (path for name in names for form in (name, f"{name}/**/*") for path in root.glob(f"{form}.py")):
            parts = path.relative_to(root).with_suffix("").parts
            parts = parts[:-1] if parts[-1] == "__init__" else parts
            if parts and parts[0] != "ragcun" and all(part.isidentifier() and _IS_PUBLIC(part) for part in parts):
                files.setdefault(".".join(parts), path)
    return dict(sorted(files.items()))
