"""A Chromium for the browser tests: an installed one, else Playwright's download, else Debian's package.

``python -m tests.browser_setup`` finds or installs one, and prints the result. It never fails.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")


def find_browser() -> str | None:
    """Path of a Chromium or Chrome that starts, Playwright's own included; None if there is none."""
    from playwright.sync_api import Error, sync_playwright

    with sync_playwright() as playwright:
        for path in [*map(shutil.which, NAMES), playwright.chromium.executable_path]:
            if path and Path(path).exists():
                try:  # libraries may be missing, or the file may be a stub that only installs a snap
                    playwright.chromium.launch(executable_path=path, args=["--no-sandbox"]).close()
                except Error:
                    continue
                return path
    return None


def get_browser() -> str | None:
    """``find_browser``; if it finds none, try to install one."""
    if path := find_browser():
        return path
    _try([sys.executable, "-m", "playwright", "install", "chromium"])
    if path := find_browser():
        return path
    if shutil.which("apt-get") and hasattr(os, "geteuid") and os.geteuid() == 0:
        _try(["apt-get", "update", "-qq"])
        _try(["apt-get", "install", "-y", "-qq", "chromium"])
    return find_browser()


def _try(command: list[str]) -> None:
    print("trying:", " ".join(command), flush=True)
    try:
        subprocess.run(command, check=False, timeout=600, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    except (OSError, subprocess.TimeoutExpired) as error:
        print("  ", error)


if __name__ == "__main__":
    browser = get_browser()
    print(f"browser: {browser}" if browser else "NO BROWSER: the browser tests will be skipped")
