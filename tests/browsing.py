"""What tests in a real browser share: finding Chromium, opening a page, asking axe-core."""

import os
import shutil
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = os.environ.get("CHROMIUM") or next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
NEEDS_CHROMIUM = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium; CHROMIUM may name one")
OPTIONS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
READY = "document.documentElement.dataset.ready === 'yes'"
FAULTS = ("serious", "critical")


def watch(context: Any) -> Any:
    """Note the errors of any page of a browser context (`trouble`), and what is loaded (`fetched`)."""
    context.trouble, context.fetched = [], []

    def listen(page: Any) -> None:
        page.on("pageerror", lambda error: context.trouble.append(str(error)))
        page.on("requestfailed", lambda request: context.trouble.append(f"failed: {request.url}"))
        page.on("requestfinished", lambda request: context.fetched.append(request.url))
        page.on("console", lambda said: context.trouble.append(said.text) if said.type == "error" else None)

    context.on("page", listen)
    return context


def visit(context: Any, path: Path, hash_: str = "") -> Any:
    """Open a page of ours, and wait until its scripts are done."""
    page = context.new_page()
    page.goto(path.as_uri() + hash_)
    page.wait_for_function(READY)
    return page


def faults(page: Any) -> list[str]:
    """Let axe-core look for serious faults of accessibility."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-core is not installed")
    found = axe.Axe().run(page).response["violations"]
    return [f"{v['id']}: {v['nodes'][0]['html'][:200]}" for v in found if v["impact"] in FAULTS]


def leaves(context: Any, folder: Path) -> list[str]:
    """List what was loaded from outside a folder."""
    inside = (folder.as_uri() + "/", "data:", "blob:")
    return [url for url in context.fetched if not url.startswith(inside)]
