"""The `openai` clients, pointed at the sidecar, whose calls carry the ids of the block they are made in.

Owns two small subclasses: where calls go if nobody says, and the fields added to each. They must never change
anything else of a call or of the client. Loaded by `sidecar.client` when one of them is asked for.
"""

import os
from typing import Any

import openai

from sidecar.client.naming import session_headers

DEFAULT = "127.0.0.1:7070"
"""The data port's own default."""


def _base_url() -> str | None:
    """Where the sidecar is if no argument says so; None leaves it to the client's own variable."""
    if os.environ.get("OPENAI_BASE_URL"):
        return None
    return f"http://{os.environ.get('SIDECAR_LISTEN') or DEFAULT}/v1"


class OpenAI(openai.OpenAI):
    """`openai.OpenAI`, all its arguments included.

    `base_url` is, if not given, that of `OPENAI_BASE_URL`, else the `/v1` of the address in `SIDECAR_LISTEN`, which
    the sidecar itself reads too, else of `127.0.0.1:7070`.
    """

    def __init__(self, *, base_url: Any = None, **options: Any) -> None:
        super().__init__(base_url=_base_url() if base_url is None else base_url, **options)

    @property
    def default_headers(self) -> dict[str, str | openai.Omit]:
        """Asked for by the client at every call, and before the call's own `extra_headers`, which win."""
        return {**super().default_headers, **session_headers()}


class AsyncOpenAI(openai.AsyncOpenAI):
    """`openai.AsyncOpenAI`; `base_url` as for `OpenAI`."""

    def __init__(self, *, base_url: Any = None, **options: Any) -> None:
        super().__init__(base_url=_base_url() if base_url is None else base_url, **options)

    @property
    def default_headers(self) -> dict[str, str | openai.Omit]:
        """As `OpenAI.default_headers`."""
        return {**super().default_headers, **session_headers()}
