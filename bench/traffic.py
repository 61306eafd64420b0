"""What is asked and what is answered, as bytes: the same for every proxy that is measured.

Owns the requests of 64 sessions with the header fields that a client library sends, the answer of about a
kilobyte, and the events of a stream. It opens no socket.
"""

import json
import re

SESSIONS = 64
SEPARATOR = b"\n\x00\n"
"""Between two requests in the file that wrk's script reads."""

UNARY_MODEL, STREAM_MODEL = "gpt-4o-mini", "gpt-4o"
"""For proxies that choose the upstream by the model."""

KEY = "sk-" + "benchmark" * 5
"""It opens nothing."""

_SYSTEM = (
    "You are the assistant of a travel agency. Answer in at most three sentences. Use only the timetable that "
    "the tools give you, and say so if it does not hold what was asked. Never make up a price or a platform."
)
_ANSWER = (
    "There are three trains to Basel tonight. The first leaves at 18:04 from platform 7 and takes 53 minutes, the "
    "second at 19:04 and the third, a night train with seats only, at 23:31. All of them are direct; you may board "
    "any of them with the ticket you have, and seats are plentiful on all three as far as the timetable tells."
)
_FINGERPRINT = {
    "model": "gpt-4o-mini-2024-07-18",
    "service_tier": "default",
    "system_fingerprint": "fp_51db84afab",
}
_HEAD = (
    "POST {path} HTTP/1.1\r\n"
    "Host: 127.0.0.1\r\n"
    "Accept: application/json\r\n"
    "Accept-Encoding: gzip, deflate\r\n"
    "Content-Type: application/json\r\n"
    "User-Agent: OpenAI/Python 2.8.1\r\n"
    "X-Stainless-Lang: python\r\n"
    "X-Stainless-Package-Version: 2.8.1\r\n"
    "X-Stainless-OS: Linux\r\n"
    "X-Stainless-Arch: x64\r\n"
    "X-Stainless-Runtime: CPython\r\n"
    "X-Stainless-Runtime-Version: 3.13.1\r\n"
    "Authorization: Bearer {key}\r\n"
    "X-Stainless-Async: false\r\n"
    "x-stainless-retry-count: 0\r\n"
    "x-stainless-read-timeout: 600\r\n"
    "X-Sidecar-Session-Id: visit-{session}\r\n"
    "X-Sidecar-Conversation-Id: trains\r\n"
    "Content-Length: {length}\r\n"
    "\r\n"
)

UNARY_PATH = "/v1/chat/completions"
STREAM_PATH = "/streams/v1/chat/completions"
"""The sidecar takes the first segment for the name of an upstream; nginx and the pass-through do the same here."""


def request(session: int, *, every: int | None = None, path: str = UNARY_PATH) -> bytes:
    """One chat request; with `every` (ms) the answer streams, one event in that time."""
    body: dict[str, object] = {
        "messages": [
            {"role": "system", "content": _SYSTEM},
            {"role": "user", "content": f"Which trains go to Basel tonight? My visit is number {session}."},
        ],
        "model": UNARY_MODEL if every is None else STREAM_MODEL,
        "temperature": 0.2,
        "max_completion_tokens": 300,
    }
    if every is not None:
        body |= {"stream": True, "user": f"every-{every}-ms"}
    content = json.dumps(body, separators=(",", ":"))
    return (_HEAD.format(path=path, key=KEY, session=session, length=len(content)) + content).encode()


def requests() -> list[bytes]:
    """One request of each session."""
    return [request(session) for session in range(SESSIONS)]


def stream_interval(received: bytes | bytearray) -> int | None:
    """How many ms shall pass between two events of a stream; None where none was asked for."""
    found = re.search(rb"every-(\d+)-ms", received)
    return int(found[1]) if found else None


def answer_body() -> bytes:
    """A chat completion, with its usage."""
    completion = {
        "id": "chatcmpl-B9MBs8CjcvOU2jLn4n570S5qMJKcT",
        "object": "chat.completion",
        "created": 1741569952,
        **_FINGERPRINT,
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": _ANSWER, "refusal": None, "annotations": []},
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": {
            "prompt_tokens": 71,
            "completion_tokens": 83,
            "total_tokens": 154,
            "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
            "completion_tokens_details": {"reasoning_tokens": 0, "audio_tokens": 0},
        },
    }
    return json.dumps(completion, indent=2).encode()


def answer() -> bytes:
    """The whole answer to a request that does not stream."""
    body = answer_body()
    head = (
        "HTTP/1.1 200 OK\r\n"
        "Content-Type: application/json\r\n"
        "openai-processing-ms: 412\r\n"
        "x-request-id: req_0000000000000000000000000000\r\n"
        f"Content-Length: {len(body)}\r\n"
        "\r\n"
    )
    return head.encode() + body


STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\n"
    b"Content-Type: text/event-stream; charset=utf-8\r\n"
    b"openai-processing-ms: 412\r\n"
    b"x-request-id: req_0000000000000000000000000000\r\n"
    b"Transfer-Encoding: chunked\r\n"
    b"\r\n"
)


WORDS = (" trains", " to", " Basel", " tonight")
"""Said in turns: a proxy may take a stream that always says the same for a broken one."""


def event(word: str) -> bytes:
    """One event of a stream, as the provider's one HTTP chunk."""
    chunk = {
        "id": "chatcmpl-B9MBs8CjcvOU2jLn4n570S5qMJKcT",
        "object": "chat.completion.chunk",
        "created": 1741569952,
        **_FINGERPRINT,
        "choices": [{"index": 0, "delta": {"content": word}, "logprobs": None, "finish_reason": None}],
        "usage": None,
        "obfuscation": "Hd7Xk2",
    }
    data = b"data: " + json.dumps(chunk, separators=(",", ":")).encode() + b"\n\n"
    return b"%x\r\n%b\r\n" % (len(data), data)


class AnswerEnd:
    """Finds where an answer ends, by its length or its last chunk; feed it what comes, until it says True."""

    def __init__(self) -> None:
        self._seen = bytearray()
        self._whole: int | None = None
        self.ok = True

    def feed(self, data: bytes) -> bool:
        """True once the answer is whole; it starts anew then. `ok` says whether all had the status 200."""
        seen = self._seen
        seen += data
        if self._whole is None:
            end = seen.find(b"\r\n\r\n")
            if end < 0:
                return False
            self.ok = self.ok and seen.startswith(b"HTTP/1.1 200")
            length = re.search(rb"\r\ncontent-length: *(\d+)\r\n", seen[: end + 2], re.IGNORECASE)
            self._whole = end + 4 + int(length[1]) if length else 0
        ended = len(seen) >= self._whole if self._whole else seen.endswith(b"\r\n0\r\n\r\n")
        if ended:
            seen.clear()
            self._whole = None
        return ended
