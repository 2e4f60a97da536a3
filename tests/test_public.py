"""The public names of ``memlab``, and the base of its errors."""

import ast
import importlib
import inspect
import os
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import memlab
from memlab import MemlabError
from memlab.probes.evaluate import Stopped
from memlab.training.cram import CramInterrupted


def names_for_type_checkers():
    """{name: module} of the imports under ``if TYPE_CHECKING``."""
    tree = ast.parse(Path(memlab.__file__).read_text())
    (block,) = [node for node in tree.body if isinstance(node, ast.If)]
    return {alias.name: node.module for node in block.body for alias in node.names}


def test_the_three_lists_of_public_names_agree():
    """Type checkers read the imports, ``__getattr__`` reads ``_HOMES``, and ``import *`` reads ``__all__``."""
    homes = {name: module for module, names in memlab._HOMES.items() for name in names}
    assert names_for_type_checkers() == homes
    assert sorted([*homes, "__version__"]) == memlab.__all__


@pytest.mark.parametrize("name", memlab.__all__)
def test_every_public_name_can_be_imported_and_is_listed(name):
    value = getattr(memlab, name)
    assert name in dir(memlab)
    if name in memlab._HOME:
        assert value is getattr(importlib.import_module(memlab._HOME[name]), name)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        memlab.nothing  # noqa: B018


def test_every_error_of_memlab_has_one_base():
    """The command line and the panels catch ``MemlabError``. A stop by the user is not an error."""
    modules = [info.name for info in pkgutil.walk_packages(memlab.__path__, "memlab.") if "__main__" not in info.name]
    classes = {
        value
        for module in modules
        for _, value in inspect.getmembers(importlib.import_module(module), inspect.isclass)
        if issubclass(value, BaseException) and value.__module__.startswith("memlab.")
    }
    assert {c for c in classes if not issubclass(c, MemlabError)} == {Stopped, CramInterrupted}
    assert all(c.exit_code in (1, 2) for c in classes if issubclass(c, MemlabError))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "given", "kept"),
    [
        ("OMP_WAIT_POLICY", None, "passive"),
        ("OMP_WAIT_POLICY", "active", "active"),
        ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", None, "64"),
        ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "1024", "1024"),
    ],
)
def test_idle_threads_do_not_spin_and_few_kernels_are_kept(name, given, kept):
    """Else a second busy program makes training several times slower, and each new length of passage keeps memory."""
    environment = {key: value for key, value in os.environ.items() if key != name} | ({name: given} if given else {})
    code = f"import os, memlab; print(os.environ['{name}'])"
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == kept
