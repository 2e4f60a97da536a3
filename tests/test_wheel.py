"""The wheel of memlab: complete, and enough for the first notebook in an environment without memlab."""

import importlib.metadata
import json
import os
import subprocess
import sys
import zipfile

import nbformat
import pytest
from nbclient import NotebookClient

from tests.browser_lab import ROOT

NOTEBOOK = ROOT / "notebooks" / "01_cram_and_decode.ipynb"
TRIES_THE_PANEL = """
panel.tokens.value = 6
panel.start.click()
print("panel:", panel.wait(240).exact)
"""
WHERE = "import memlab\nprint('memlab is at', memlab.__file__)"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir"]
    subprocess.run([*pip, str(folder), str(ROOT)], check=True)
    (built,) = folder.glob("memlab-*.whl")
    return built


def test_the_wheel_has_every_file_of_the_package(wheel):
    packed = set(zipfile.ZipFile(wheel).namelist())
    files = {
        file.relative_to(ROOT).as_posix()
        for file in (ROOT / "memlab").rglob("*")
        if file.suffix in (".py", ".css", ".js") and "data" not in file.relative_to(ROOT / "memlab").parts
    }
    assert not files - packed
    data = {f"memlab/data/{name}" for name in ("texts/fiction-salt-ferry.txt", "bench/speed.parquet")}
    assert not data - packed


def test_where_memlab_is_installed_the_first_notebook_installs_nothing(monkeypatch, capfd):
    monkeypatch.setattr(subprocess, "run", lambda *a, **k: pytest.fail("it installs something"))
    exec(install_cell(), {"memlab_from": "memlab-*.whl"})
    assert capfd.readouterr() == ("", "")


def test_without_a_wheel_the_first_notebook_says_what_to_do(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=r"`make wheel`.* next to this notebook"):
        exec(install_cell(), {"memlab_from": "memlab-*.whl"})


def install_cell():
    (cell,) = [c for c in nbformat.read(NOTEBOOK, 4).cells if c.get("id") == "cell-install"]
    return cell.source


@pytest.mark.skipif("MEMLAB_BARE" not in os.environ, reason="installs torch again, minutes: set MEMLAB_BARE=1")
@pytest.mark.slow
@pytest.mark.notebook
@pytest.mark.real
@pytest.mark.timeout(1200)
def test_the_first_notebook_installs_memlab_and_runs_in_a_bare_environment(wheel, tmp_path, monkeypatch):
    """As in Colab: a kernel and torch are there, memlab comes from the notebook's second cell."""
    bare, here = tmp_path / "environment", tmp_path / "here"
    here.mkdir()
    (here / wheel.name).write_bytes(wheel.read_bytes())
    for name in [name for name in os.environ if name.startswith(("PYTHON", "VIRTUAL_ENV"))]:
        monkeypatch.delenv(name)
    python = bare / "bin" / "python"
    subprocess.run([sys.executable, "-m", "venv", str(bare)], check=True)
    needed = ["ipykernel", f"torch=={importlib.metadata.version('torch')}"]
    got = subprocess.run(
        [python, "-m", "pip", "install", "--quiet", *needed], capture_output=True, text=True, check=False
    )
    if got.returncode:
        pytest.skip(f"the package registry does not give {needed}: {got.stderr[-300:]}")
    kernel = tmp_path / "share" / "kernels" / "bare"
    kernel.mkdir(parents=True)
    command = [str(python), "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    (kernel / "kernel.json").write_text(json.dumps({"argv": command, "display_name": "bare", "language": "python"}))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "share"))
    monkeypatch.setenv("MEMLAB_STORE", str(tmp_path / "store"))

    notebook = nbformat.read(NOTEBOOK, 4)
    (after,) = [i for i, cell in enumerate(notebook.cells) if "cram_panel(lm" in cell.source]
    notebook.cells.insert(after + 1, nbformat.v4.new_code_cell(TRIES_THE_PANEL))
    notebook.cells.append(nbformat.v4.new_code_cell(WHERE))
    client = NotebookClient(notebook, timeout=600, kernel_name="bare", resources={"metadata": {"path": str(here)}})
    client.execute(env=os.environ.copy())

    outputs = [o for cell in notebook.cells if cell.cell_type == "code" for o in cell.outputs]
    printed = "".join(o.text for o in outputs if o.output_type == "stream" and o.name == "stdout")
    assert "panel: True" in printed
    assert f"memlab is at {bare}" in printed
    kinds = {kind for o in outputs for kind in o.get("data", {})}
    assert {"application/vnd.vegalite.v5+json", "application/vnd.jupyter.widget-view+json", "image/png"} <= kinds
