"""Results files and isotropy reports on disk."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.reporting.samples import results


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., str]:
    """Write content, or `results` of further arguments, under a name; return the path as text."""

    def to_file(name: str, content: Any, *arguments: Any, **options: Any) -> str:
        whole = results(content, *arguments, **options) if isinstance(content, str) else content
        (tmp_path / name).write_text(json.dumps(whole))
        return str(tmp_path / name)

    return to_file
