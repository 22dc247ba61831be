"""What `make docs` adds to the site: a page of all commands and flags, as their parsers print them."""

from __future__ import annotations

import contextlib
import io
import os

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

from ragcun.cli.main import COMMANDS, main

START = "# Commands and flags\n\nWhat `ragcun COMMAND --help` prints; this page is made from the parsers.\n"


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the page ``commands.md``."""
    os.environ["COLUMNS"] = "100"
    shown = io.StringIO()
    for name in COMMANDS:
        shown.write(f"\n## ragcun {name}\n\n```text\n")
        with contextlib.redirect_stdout(shown), contextlib.suppress(SystemExit):
            main([*name.split(), "--help"])
        shown.write("```\n")
    files.append(File.generated(config, "commands.md", content=START + shown.getvalue()))
    return files
