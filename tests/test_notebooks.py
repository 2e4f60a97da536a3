"""Every notebook is committed without outputs, with short cells, and runs from top to bottom."""

import ast
import os

import nbformat
import pytest
from nbclient import NotebookClient

from memlab import Store, Text, cram, load
from memlab.models.presets import DEFAULT
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


WITH_PARAMETERS = [path for path in NOTEBOOKS if path.stem in ("01_cram_and_decode", "09_your_own_analysis")]
"""The other notebooks describe stored tables of one model, so another model would not fit their text."""


def parameters_cell(notebook):
    """(place, source) of the one cell whose values papermill replaces (``papermill IN OUT -p model NAME``)."""
    tagged = [i for i, cell in enumerate(notebook.cells) if "parameters" in cell.metadata.get("tags", [])]
    (place,) = tagged
    return place, notebook.cells[place].source


@pytest.mark.parametrize("path", WITH_PARAMETERS, ids=lambda p: p.stem)
def test_parameters_are_set_in_one_cell_before_they_are_used(path):
    notebook = nbformat.read(path, as_version=4)
    place, source = parameters_cell(notebook)
    set_here = {}
    for statement in ast.parse(source).body:
        assert isinstance(statement, ast.Assign)
        set_here[statement.targets[0].id] = ast.literal_eval(statement.value)
    assert set_here["model"] == DEFAULT
    assert {"model", "store_path", "tokens"} <= set(set_here)

    def names(cells):
        """{name: whether these cells load it, set it, or both}."""
        trees = [ast.parse(cell.source) for cell in cells if cell.cell_type == "code"]
        nodes = [node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Name)]
        return {name: {type(node.ctx) for node in nodes if node.id == name} for name in set_here}

    assert not any(names(notebook.cells[:place]).values())
    # They are used, and not set again, so that a cell can run again.
    assert names(notebook.cells[place + 1 :]) == {name: {ast.Load} for name in set_here}


@pytest.mark.notebook
def test_other_parameters_give_an_analysis_of_another_model(tmp_path, monkeypatch):
    lm, vectors, notebook = load("toy:llama"), Store(tmp_path / "vectors"), nbformat.read(WITH_PARAMETERS[-1], 4)
    words = ["Hello there", "We leave at nine", "Bring bread", "The tide", "Nobody knew", "It rained all day"]
    texts = [Text(f"random-{i}" if i % 2 else f"text-{i}", word) for i, word in enumerate(words * 2)]
    cram(lm, [lm.passage(text, 4) for text in texts], store=vectors, progress=False)
    given = {"model": "toy:llama", "store_path": str(tmp_path / "mine"), "vectors": str(vectors.path), "tokens": 4}
    source = "\n".join(f"{name} = {value!r}" for name, value in given.items())
    notebook.cells.insert(parameters_cell(notebook)[0] + 1, nbformat.v4.new_code_cell(source))  # as papermill does it
    monkeypatch.setenv("MEMLAB_STORE", str(tmp_path / "elsewhere"))
    NotebookClient(notebook, timeout=300, kernel_name="python3").execute(env=os.environ.copy())
    assert not (tmp_path / "elsewhere").exists()
    assert [mem.model for mem in map(Store(tmp_path / "mine").get, Store(tmp_path / "mine").keys())] == ["toy:llama"]


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
    if path.stem != "00_start_here":  # it shows one vector, and loads no model
        assert any("vegalite.v5" in kind or "widget-view" in kind for kind in kinds)
