"""JupyterLab on a copy of the notebooks, and a browser without access to the network."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
OUTPUT = ROOT / "tests" / "output"
# JupyterLab's news prompt would cover the page.
QUIET = {"@jupyterlab/apputils-extension:notification": {"fetchNews": "false", "checkForUpdates": False}}


@contextmanager
def jupyter_lab(folder: Path, *, store: Path) -> Iterator[str]:
    """Serve a copy of ``notebooks/`` from ``folder``. Yields the address."""
    shutil.copytree(ROOT / "notebooks", folder / "notebooks")
    settings = folder / "settings"
    settings.mkdir()
    (settings / "overrides.json").write_text(json.dumps(QUIET))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", f"--port={port}", "--ip=127.0.0.1", "--allow-root"]
    command += ["--IdentityProvider.token=", f"--LabApp.app_settings_dir={settings}", "--ServerApp.root_dir=."]
    command += ["--LabApp.news_url="]
    # Fresh workspaces and settings: not the developer's, and not those of the last run.
    own = {
        "JUPYTERLAB_WORKSPACES_DIR": "workspaces",
        "JUPYTERLAB_SETTINGS_DIR": "user",
        "JUPYTER_RUNTIME_DIR": "runtime",
    }
    env = os.environ | {k: str(folder / v) for k, v in own.items()} | {"MEMLAB_STORE": str(store)}
    log = (folder / "lab.log").open("w")
    server = subprocess.Popen(command, cwd=folder / "notebooks", env=env, stdout=log, stderr=subprocess.STDOUT)
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(240):
            try:
                urllib.request.urlopen(f"{address}/api", timeout=2)
                break
            except OSError:
                if server.poll() is not None:
                    raise RuntimeError(f"JupyterLab ended: {(folder / 'lab.log').read_text()[-2000:]}") from None
                time.sleep(0.5)
        yield address
    finally:
        server.terminate()
        try:
            server.wait(20)
        except subprocess.TimeoutExpired:
            server.kill()
        log.close()


@contextmanager
def browser_page(executable: str, *, width: int = 1280, height: int = 1000) -> Iterator[Any]:
    """A browser page. Requests to other machines are refused and listed in ``page.refused``."""
    from playwright.sync_api import sync_playwright

    flags = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking", "--disable-sync"]
    flags += ["--disable-component-update", "--no-first-run"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, headless=True, args=flags)
        page = browser.new_page(viewport={"width": width, "height": height}, accept_downloads=True)
        page.refused = []

        def gate(route: Any) -> None:
            if "://127.0.0.1" in route.request.url or route.request.url.startswith(("data:", "blob:")):
                route.continue_()
            else:
                page.refused.append(route.request.url)
                route.abort()

        page.route("**/*", gate)
        try:
            yield page
        finally:
            browser.close()


def open_notebook(page: Any, address: str, name: str) -> None:
    """Open a notebook in a fresh workspace, and wait for its first cell."""
    page.goto(f"{address}/lab/workspaces/test-{name[:2]}/tree/{name}?reset", wait_until="domcontentloaded")
    page.wait_for_selector(".jp-Notebook .jp-Cell", timeout=120_000)
    page.wait_for_selector("#jupyterlab-splash", state="detached", timeout=60_000)
    page.keyboard.press("Control+b")  # the file browser takes a quarter of the width
    page.wait_for_timeout(1000)


def run_all(page: Any, *, timeout: float = 300) -> None:
    """Run every cell from the menu, and wait until the kernel is idle."""
    page.click("text=Run >> nth=0")
    page.click(".lm-Menu-itemLabel:text-is('Run All Cells')")
    deadline = time.monotonic() + timeout
    quiet = 0
    while quiet < 4:
        if time.monotonic() > deadline:
            raise TimeoutError(f"cells still running after {timeout} s: {prompts(page)}")
        page.wait_for_timeout(500)
        waiting = any("*" in p for p in prompts(page))
        started = any(p.strip("[]: ").isdigit() for p in prompts(page))
        quiet = quiet + 1 if started and not waiting else 0


def prompts(page: Any) -> list[str]:
    """The visible execution counts: ``[3]:`` when done, ``[*]:`` while running."""
    return [p for p in page.locator(".jp-CodeCell .jp-InputPrompt").all_inner_texts() if p.strip()]


def errors(page: Any) -> list[str]:
    """Visible tracebacks, warnings and dialogs."""
    kinds = ("application/vnd.jupyter.error", "application/vnd.jupyter.stderr")
    seen = [f'.jp-RenderedText[data-mime-type="{kind}"]' for kind in kinds]
    texts: list[str] = page.locator(", ".join([*seen, ".jp-Dialog-content"])).all_inner_texts()
    return texts


def set_theme(page: Any, name: str) -> None:
    """Switch to ``JupyterLab Light`` or ``JupyterLab Dark``."""
    page.click(".lm-MenuBar-itemLabel:text-is('Settings')")
    page.hover(".lm-Menu-itemLabel:text-is('Theme')")
    page.click(f".lm-Menu-itemLabel:text-is('{name}')")
    page.wait_for_timeout(1500)
