"""Fixtures: the toys, the real model, a temporary store, a browser."""

from __future__ import annotations

import os
import signal

os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("MPLBACKEND", "agg")
# Parallel test processes share the cores. If each of them used all cores, all of them would be ten times slower.
os.environ.update(
    {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // int(workers)))}
    if (workers := os.environ.get("PYTEST_XDIST_WORKER_COUNT"))
    else {}
)

import numpy as np
import pytest

from memlab.models.families import TOY_FAMILIES
from memlab.results.store import Store


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "store")


@pytest.fixture(scope="session")
def toy():
    from memlab.models import load

    return load("toy:llama")


QUICK_FAMILIES = ("llama", "gemma3", "mamba")
"""Families of ``make check``: attention, attention in windows, states."""


@pytest.fixture(
    scope="session",
    params=[name if name in QUICK_FAMILIES else pytest.param(name, marks=pytest.mark.slow) for name in TOY_FAMILIES],
)
def any_toy(request):
    """One toy of each family in ``memlab.models.families``; in ``make check`` of a few."""
    from memlab.models import load

    return load(f"toy:{request.param}")


@pytest.fixture(scope="session")
def real():
    from memlab.models import load

    return load("smollm2-135m")


@pytest.fixture(scope="session")
def browser():
    from tests.browser_setup import find_browser

    found = find_browser()
    if not found:
        message = "no Chromium: the browser tests did NOT run (python -m tests.browser_setup gets one)"
        if os.environ.get("MEMLAB_REQUIRE_BROWSER"):
            pytest.fail(message)
        pytest.skip(message)
    return found


@pytest.fixture(scope="module")
def lab(browser, tmp_path_factory):
    """(address, page, store) of a JupyterLab and a browser, for one test module."""
    from tests.browser_lab import OUTPUT, browser_page, jupyter_lab

    folder = tmp_path_factory.mktemp("lab")
    OUTPUT.mkdir(parents=True, exist_ok=True)
    with jupyter_lab(folder, store=folder / "store") as address, browser_page(browser) as page:
        yield address, page, Store(folder / "store")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items):
    """The slowest tests run first, so that no process works alone at the end. They also get more time than others."""
    items.sort(key=lambda item: ("browser" not in item.keywords, "real" not in item.keywords))
    for item in items:
        if any(item.get_closest_marker(kind) for kind in ("real", "notebook", "browser")):
            item.add_marker(pytest.mark.timeout(1200))


def random_passages(lm, count=8, tokens=8, seed=0):
    rng = np.random.default_rng(seed)
    return [lm.passage_of_ids(rng.integers(0, lm.vocabulary, tokens), name=f"random-{i}") for i in range(count)]


def restore_sigint():
    """For a child process: restore SIGINT. A shell ignores SIGINT in background jobs, and children inherit that."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
