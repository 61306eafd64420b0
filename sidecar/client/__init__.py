"""For the app: calls that say which session and conversation they belong to, and go through the sidecar.

Owns what an app imports: `session` and `session_headers`, hooks for clients that stand on httpx, and `OpenAI` and
`AsyncOpenAI`. It must never need `openai` for anything but these two, which are loaded when they are asked for.

    from sidecar.client import OpenAI, session

    client = OpenAI()
    with session("visit-7", conversation="trains"):
        client.responses.create(model="gpt-4o-mini", input="Which trains go to Basel tonight?")
"""

from typing import TYPE_CHECKING, Any

from sidecar.client.naming import add_session_headers, add_session_headers_async, session, session_headers

if TYPE_CHECKING:
    # The same constructors; what is made at run time are subclasses that know the sidecar.
    from openai import AsyncOpenAI as AsyncOpenAI
    from openai import OpenAI as OpenAI

__all__ = [
    "AsyncOpenAI",
    "OpenAI",
    "add_session_headers",
    "add_session_headers_async",
    "session",
    "session_headers",
]


def __getattr__(name: str) -> Any:
    if name not in {"AsyncOpenAI", "OpenAI"}:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from sidecar.client import through_sidecar  # noqa: PLC0415 - it needs openai

    return getattr(through_sidecar, name)
