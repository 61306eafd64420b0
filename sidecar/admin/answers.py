"""The form of the admin port's answers: JSON, errors too, never cached.

Owns the fields that every answer has. It knows no path.
"""

import msgspec
from aiohttp import web

GUARDING = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
"""Fields of every answer."""


def document(content: object, status: int = 200) -> web.Response:
    """A document as JSON."""
    return web.Response(body=msgspec.json.encode(content), status=status, content_type="application/json")


def error_answer(status: int, message: str) -> web.Response:
    """An error as JSON, with the fields that every answer has."""
    response = document({"error": {"status": status, "message": message}}, status)
    response.headers.update(GUARDING)
    return response
