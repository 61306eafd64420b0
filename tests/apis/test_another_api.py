"""Another API is its file, its golden data and nothing else: one is added to a copy, and the copy's own tests ask for it."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from sidecar.core.facts import ResponseFacts
from tests.apis.example import facts_of

ROOT = Path(__file__).parents[2]

MODULE = '''"""Ollama's chat.

Owns what a request, an object and a body of `/api/chat` mean.
"""

import msgspec

from sidecar.apis.base import Api, ModelRequest, Path, Reader, counted, present
from sidecar.apis.errors import error_word, foreign_error, is_error
from sidecar.apis.shapes import Count, Shape, Thing, Word
from sidecar.core.facts import EventKind


class _Options(msgspec.Struct):
    num_predict: int | None = None


class OllamaRequest(ModelRequest, kw_only=True):
    """What is read of a request."""

    messages: list[Thing] | None = None
    options: _Options | None = None

    def asks_stream(self) -> bool:
        """It is streamed unless the body says no."""
        return self.stream is not False

    def message_count(self) -> int | None:
        """How many messages the request carries."""
        return counted(self.messages)

    def attributes(self) -> dict[str, object]:
        """The request's parameters by the attribute names of the conventions."""
        return present({"gen_ai.request.max_tokens": self.options and self.options.num_predict})


class _Message(msgspec.Struct):
    content: str | None = None


class _Answer(msgspec.Struct):
    model: Word | None = None
    message: _Message | str | None = None
    done: bool | None = None
    done_reason: Word | None = None
    prompt_eval_count: Count | None = None
    eval_count: Count | None = None
    error: msgspec.Raw = msgspec.Raw()


class OllamaReader(Reader[_Answer, _Answer]):
    """Reads an answer, streamed or whole."""

    __slots__ = ()

    event_shape = shape = Shape(_Answer)

    def event(self, name: bytes, data: bytes) -> EventKind:
        """Takes one object; says what it means."""
        part = self._event(data)
        if part is None:
            return self._unread(name, data)
        error = error_word(data) if name == b"error" else self._take(part)
        if not isinstance(part.message, _Message):
            error = error or foreign_error(data)
        if error is not None:
            return self._failed(error)
        if part.done:
            self.facts.ended = True
            return EventKind.END
        output = isinstance(part.message, _Message) and part.message.content
        return EventKind.CHUNK if output else EventKind.EVENT

    def _answers(self, body: _Answer, data: bytes) -> bool:
        if error := self._take(body):
            self._failed(error)
        return isinstance(body.message, _Message)

    def _take(self, part: _Answer) -> str | None:
        self.facts.model = self.facts.model or part.model or None
        self._tokens(present({"input": part.prompt_eval_count, "output": part.eval_count}))
        error = self._choice_ended(0, part.done_reason, part.error)
        return error_word(part.error) if is_error(part.error) else error


API = Api(
    name="ollama.chat",
    title="Ollama's chat",
    paths=(Path(end="/api/chat", operation="chat", turn=True, provider="ollama"),),
    others=("/api/tags",),
    request=OllamaRequest,
    stream=OllamaReader,
    body=OllamaReader,
    finish_reasons="stop load",
)
'''

STREAM = (
    {"model": "llama3", "message": {"role": "assistant", "content": "Hel"}, "done": False},
    {"model": "llama3", "message": {"role": "assistant", "content": ""}, "done": False},
    {"model": "llama3", "message": {"role": "assistant", "content": "lo"}, "done": False},
    {
        "model": "llama3",
        "message": {"role": "assistant", "content": ""},
        "done": True,
        "done_reason": "stop",
        "prompt_eval_count": 5,
        "eval_count": 7,
    },
)

EXPECTED = {
    "path": "/api/chat",
    "content_type": "application/x-ndjson",
    "kinds": ["CHUNK", "EVENT", "CHUNK", "END"],
    "facts": facts_of(
        ResponseFacts(model="llama3", finish_reasons=["stop"], tokens={"input": 5, "output": 7}, ended=True)
    ),
    "keep_alives": 0,
}

EXAMPLES = '''"""Ollama's chat: a call whole and streamed, and what it tells."""

import json

from tests.apis.example import CHAT_MESSAGES, TOKENS, Example, Stream, told


def _part(content: str, **more: object) -> dict[str, object]:
    return {"model": "llama3", "message": {"role": "assistant", "content": content}, "done": False, **more}


def _line(value: object) -> bytes:
    return json.dumps(value).encode() + b"\\n"


LAST = {"done": True, "done_reason": "stop", "prompt_eval_count": 5, "eval_count": 7}

OLLAMA = Example(
    name="ollama chat",
    path="/api/chat",
    route="/api/chat",
    request={"model": "llama", "messages": CHAT_MESSAGES, "options": {"num_predict": 9}, "stream": False},
    answer=_part("Hello", **LAST),
    facts=told(None, "llama3", "stop") | TOKENS,
    operation="chat",
    provider="ollama",
    failure={"error": "server_error"},
    word="server_error",
    model="llama",
    asked={"sidecar.request.messages": 1, "gen_ai.request.max_tokens": 9},
    stream=Stream(
        path="/api/chat",
        route="/api/chat",
        request={"stream": True},
        first=_line(_part("Hel")),
        rest=_line(_part("lo")),
        terminator=_line(_part("", **LAST)),
        events=(1, 1, 1),
        error=_line({"error": "server_error"}),
        early=told(None, "llama3"),
        late=told(None, "llama3", "stop") | TOKENS,
        media=b"application/x-ndjson",
        nothing=b"",
        empty=0,
    ),
)

EXAMPLES = (OLLAMA,)
'''

NEW = {
    "sidecar/apis/ollama_chat.py": MODULE,
    "tests/apis/golden/ollama_chat.body": "".join(json.dumps(part) + "\n" for part in STREAM),
    "tests/apis/golden/ollama_chat.expected.json": json.dumps(EXPECTED),
    "tests/apis/golden/ollama_chat.py": EXAMPLES,
}


def outcome_of(copy: Path, *arguments: str) -> tuple[int, str]:
    """Runs tests of the copy, with the copy's own code; gives the exit code, and what was said."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments]
    environ = os.environ | {"PYTHONPATH": str(copy)}
    done = subprocess.run(command, cwd=copy, env=environ, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


def test_another_api_is_one_file_and_its_golden_data(tmp_path: Path) -> None:
    """Route, readers, matrix and lists know it at once; one test tells the README's line."""
    left_out = shutil.ignore_patterns("__pycache__", ".*", "dist", "build")
    for name in ("sidecar", "tests", "grafana", "docs"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=left_out)
    for name in ("README.md", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path / name)
    for name, text in NEW.items():
        assert not (tmp_path / name).exists()
        (tmp_path / name).write_text(text)
    lists = [f"tests/apis/test_{name}.py" for name in ("streams", "error_events", "bodies", "routes")]
    code, said = outcome_of(tmp_path, *lists, "-k", "ollama or forgotten or two_things")
    assert code == 0, said
    assert int(re.findall(r"(\d+) passed", said)[-1]) > 40, said
    cells = "ollama and (whole-identity or error-inside-identity or cut-short-identity)"
    code, said = outcome_of(tmp_path, "tests/matrix/test_matrix.py", "-k", cells)
    assert code == 0, said
    assert int(re.findall(r"(\d+) passed", said)[-1]) >= 5, said
    code, said = outcome_of(tmp_path, "tests/test_docs.py", "-k", "in_depth")
    assert code == 1, said
    assert "Ollama's chat" in said
