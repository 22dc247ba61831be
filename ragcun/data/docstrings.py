"""The docstrings of a Python source file, parsed and never imported, each split into its summary and the rest."""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ragcun.data.beir import Document
from ragcun.data.records import is_encodable

SUMMARY_WORDS = range(4, 31)
"""How many words a summary may have: fewer do not say what is sought, more are no query."""
FEWEST_REST_WORDS = 15
"""How many words the rest of a docstring must have for a document to be worth finding."""

_SENTENCE_END = re.compile(r"(?<!e\.g)(?<!i\.e)(?<!etc)(?<!vs)[.!?]\s+(?=[A-Z`\"'(*])")
_Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


@dataclass(frozen=True, slots=True)
class DocEntry:
    """The documentation of one function, class or method."""

    name: str
    summary: str
    signature: str
    rest: str

    @property
    def document(self) -> Document:
        """The document: the qualified name as title, the signature and the docstring without its summary as text."""
        return Document(self.name, f"{self.signature}\n{self.rest}")


def module_entries(module: tuple[str, Path]) -> list[DocEntry]:
    """Return what the file of one module, ``(dotted name, path)``, documents; nothing where it is not UTF-8 Python."""
    name, path = module
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SyntaxWarning)
            warnings.simplefilter("ignore", DeprecationWarning)
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
    usable = (
        is_encodable(docstring) and len(summary.split()) in SUMMARY_WORDS and len(rest.split()) >= FEWEST_REST_WORDS
    )
    if not usable or summary.startswith((f"{node.name}(", ":", ">>>")):
        return None
    return DocEntry(name, summary, _signature(node), rest)


def split_docstring(docstring: str) -> tuple[str, str]:
    r"""Return the summary (the first sentence of the first paragraph, on one line) and the rest of a docstring.

    >>> split_docstring("Return the norm. It is real.\n\nMore.")
    ('Return the norm.', 'It is real.\n\nMore.')
    """
    paragraph, _, rest = docstring.strip().partition("\n\n")
    end = _SENTENCE_END.search(paragraph)
    if end:
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
