"""A headless browser for the live page, and a page that tells on itself: messages, and requests to elsewhere."""

import os
import shutil
from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import sync_playwright

from sidecar.testing import RunningSidecar, ScriptedUpstream, chat_completion, json_answer
from tests.ui.pages import OpenPage

BROWSERS = ("chromium", "chromium-browser", "google-chrome")


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """The system's Chromium, or the one that `CHROMIUM` names."""
    path = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, BROWSERS)), None)
    assert path, "no Chromium: install the package chromium, or set CHROMIUM"
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture
def open_page(browser: Any) -> Iterator[OpenPage]:
    """Opens the live page of a sidecar; `expected` is a part of console messages that may come.

    So may the refusal of a missing token, and what the browser says of a test that reads the picture.
    """
    contexts = []
    told: list[str] = []
    may: list[str] = ["status of 401", "willReadFrequently"]

    def open_one(sidecar: RunningSidecar, *, expected: str | None = None, **options: Any) -> Any:
        options = {"viewport": {"width": 1280, "height": 800}, **options}
        context = browser.new_context(permissions=["clipboard-read", "clipboard-write"], **options)
        contexts.append(context)
        page = context.new_page()
        own = f"http://127.0.0.1:{sidecar.admin_port}/"
        may.extend([expected] if expected else [])
        page.on("console", lambda message: told.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: told.append(f"error: {error}"))
        page.on("request", lambda one: None if one.url.startswith(own) else told.append(f"asked {one.url}"))
        page.goto(own)
        return page

    yield open_one
    for context in contexts:
        context.close()
    assert [line for line in told if not any(part in line for part in may)] == []


@pytest.fixture(autouse=True)
def answers(upstream: ScriptedUpstream) -> None:
    """Whatever is asked without a script of its own."""
    upstream.answer_always(*json_answer(chat_completion("Hi")))
