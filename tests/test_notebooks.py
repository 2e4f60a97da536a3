"""Every notebook is committed without outputs, with short cells, and runs from top to bottom."""

import ast
import os

import nbformat
import pytest
from nbclient import NotebookClient

from tests.browser_lab import ROOT
from tests.browser_setup import find_browser

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
names = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)


def test_the_notebooks_are_found():
    assert NOTEBOOKS


@names
def test_cells_are_short_and_have_no_outputs(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert notebook.cells[0].cell_type == "markdown"
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert not cell.outputs
            assert cell.execution_count is None
            assert len(cell.source.splitlines()) <= 20
            for node in ast.walk(ast.parse(cell.source)):
                assert not isinstance(node, ast.FunctionDef) or node.end_lineno - node.lineno < 5


@names
def test_a_browser_test_opens_it(path):
    """Then ``test_runs_from_top_to_bottom`` can leave the notebook to the browser test."""
    sources = [file.read_text() for file in (ROOT / "tests").glob("test_browser*.py")]
    assert f'opened(lab, "{path.name}")' in "".join(sources)


@pytest.mark.notebook
@pytest.mark.real
@names
def test_runs_from_top_to_bottom(path, tmp_path, monkeypatch, request):
    in_browser = any(item.get_closest_marker("browser") for item in request.session.items)
    if in_browser and find_browser():
        pytest.skip("test_browser*.py runs it in the browser")
    monkeypatch.setenv("MEMLAB_STORE", str(tmp_path / "store"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(
        notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": ROOT / "notebooks"}}
    )
    client.execute(env=os.environ.copy())
    shown = [o for c in notebook.cells if c.cell_type == "code" for o in c.outputs]
    assert not [o for o in shown if o.output_type == "error"]
    # Training bars and warnings go to stderr. A reader should see no warning.
    warnings = [o.text for o in shown if o.output_type == "stream" and o.name == "stderr" and "Warning" in o.text]
    assert not warnings
    kinds = {kind for o in shown if "data" in o for kind in o.data}
    assert not any("vegalite.v6" in kind for kind in kinds)
    assert any("vegalite.v5" in kind or "widget-view" in kind for kind in kinds)
