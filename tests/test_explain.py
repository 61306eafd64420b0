"""`sidecar explain`: what it says a request would be is what the sidecar then makes of it."""

import gzip
import io
import json
import shlex
import subprocess
import sys
import zlib
from pathlib import Path

import brotli
import pytest

from sidecar import cli
from sidecar.request_text import RequestTextError, read_request
from sidecar.testing import (
    OtlpSink,
    RunningSidecar,
    ScriptedUpstream,
    chat_completion,
    exchange,
    json_answer,
    request_bytes,
)

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

UPSTREAMS = ("--upstream=https://api.openai.com", "--upstreams=anthropic=https://api.anthropic.com/base")


def explained(capsys: pytest.CaptureFixture[str], request: str, *arguments: str) -> dict[str, list[str]]:
    """The lines, by their names."""
    assert cli.main(["explain", request, *(arguments or UPSTREAMS)], {}) == 0
    lines: dict[str, list[str]] = {}
    for line in capsys.readouterr().out.splitlines():
        lines.setdefault(line[:13].strip(), []).append(line[14:])
    return lines


def curl(path: str, *fields: str, body: object = None) -> str:
    """A curl line."""
    words = ["curl", f"http://127.0.0.1:7070{path}", *(word for field in fields for word in ("-H", field))]
    return shlex.join(words if body is None else [*words, "--json", json.dumps(body)])


def test_a_call(capsys: pytest.CaptureFixture[str]) -> None:
    """Upstream, route, API and model, and who is talking."""
    body = {"model": "m", "stream": True, "max_tokens": "many", "metadata": {"session_id": "in-body"}}
    request = curl("/anthropic/v1/messages?beta=true", "X-Claude-Code-Session-Id: visit-7", body=body)
    lines = explained(capsys, request)
    assert lines["upstream"] == ["anthropic"]
    assert lines["goes to"] == ["POST https://api.anthropic.com/base/v1/messages?beta=true"]
    assert lines["API"] == ["anthropic.messages"]
    assert lines["operation"] == ["chat, generates"]
    assert (lines["model"], lines["streams"], lines["body"]) == (["m"], ["yes"], ["read"])
    assert lines["session"] == ["visit-7   by known_header"]
    assert lines["passed over"] == ["body field metadata.session_id (body): in-body; an earlier rule has one"]
    assert lines["ignored"] == ["fields of another type than the API's: max_tokens"]


@pytest.mark.parametrize(
    "fields,body,session,conversation,noted",
    [
        ([], {}, "(made up for each request)   by generated", "main", []),
        (
            ["X-Sidecar-Session-Id: own", "session_id: known"],
            {},
            "own   by own_header",
            "main",
            ["session_id (known_header): known"],
        ),
        (["x-vendor-session-id: 12345678"], {}, "12345678   by vendor_header", "main", []),
        (["baggage: session.id=bag"], {}, "bag   by baggage", "main", []),
        (
            ["X-Sidecar-Session-Id: ü"],
            {"session_id": "b"},
            "b   by body",
            "main",
            ["X-Sidecar-Session-Id: not an id"],
        ),
        (
            ["thread-id: t"],
            {"metadata": {"conversation_id": "c"}},
            "(made up for each request)   by generated",
            "t",
            [],
        ),
        (
            [f"X-Sidecar-Session-Id: {'a' * 201}"],
            {},
            "sha256-",
            "main",
            ["X-Sidecar-Session-Id: is replaced"],
        ),
    ],
)
def test_who_is_talking(
    capsys: pytest.CaptureFixture[str],
    fields: list[str],
    body: dict[str, object],
    session: str,
    conversation: str,
    noted: list[str],
) -> None:
    """The rule that found it, and those that were passed over."""
    lines = explained(capsys, curl("/v1/chat/completions", *fields, body=body))
    assert lines["session"][0].startswith(session)
    assert lines["conversation"][0].split("   ")[0] == conversation
    said = [*lines.get("passed over", []), *lines.get("note", [])]
    assert len(said) == len(noted)
    assert all(one.startswith(start) for one, start in zip(said, noted, strict=True))


def test_it_comes_true(
    sidecar: RunningSidecar, upstream: ScriptedUpstream, sink: OtlpSink, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same request through the sidecar has the route, the session and the source that were told."""
    upstream.answer(*json_answer(chat_completion("Hi")))
    body = json.dumps({"model": "gpt-4o", "session_id": "explained", "messages": []}).encode()
    fields = (b"Content-Type: application/json", b"thread-id: t")
    exchange(sidecar.port, request_bytes("POST", "/v1/chat/completions", headers=fields, body=body))
    span = sink.span(kind="SERVER", attributes={"session.id": "explained"})
    text = f"POST /v1/chat/completions HTTP/1.1\n{chr(10).join(one.decode() for one in fields)}\n\n{body.decode()}\n"
    said = read_request(text)
    assert said.body == body
    lines = explained(
        capsys,
        curl("/v1/chat/completions", "thread-id: t", body=json.loads(body)),
        f"--upstream={upstream.url}",
    )
    assert lines["route"] == [span.attributes["http.route"]]
    assert lines["session"] == ["explained   by " + str(span.attributes["sidecar.session.source"])]
    assert lines["conversation"] == [str(span.attributes["sidecar.conversation.id"]) + "   named"]


def test_from_a_file_and_from_standard_input(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A request's own text, with either kind of line end."""
    path = tmp_path / "request"
    path.write_text(
        'POST /v1/responses HTTP/1.1\r\nContent-Type: application/json\r\n\r\n{"model": "m"}', newline=""
    )
    assert explained(capsys, str(path))["API"] == ["openai.responses"]
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"GET /v1/models\n")))
    assert explained(capsys, "-")["API"][0].startswith("none")


PACKED = json.dumps({"model": "m", "session_id": "packed"}).encode()
CODED = [
    ("gzip", gzip.compress(PACKED), "read"),
    ("x-gzip", gzip.compress(PACKED), "read"),
    ("deflate", zlib.compress(PACKED), "read"),
    ("br", brotli.compress(PACKED), "read"),
    ("zstd", zstd.compress(PACKED), "read"),
    ("identity", PACKED, "read"),
    ("gzip", PACKED, "not read by its Content-Encoding: "),
    ("lz4", PACKED, "not read by its Content-Encoding: content coding b'lz4' is not read"),
    ("gzip", gzip.compress(b" " * 4096), "not read: larger than SIDECAR_INSPECT_LIMIT once it is decoded"),
    ("gzip", b"x" * 2048, "not read: larger than SIDECAR_INSPECT_LIMIT"),
]


@pytest.mark.parametrize("coding, body, state", CODED)
def test_a_compressed_body(
    coding: str, body: bytes, state: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As the sidecar decodes it, from a file of curl's or in the request's own text; or why it is not read."""
    fields = f"Content-Type: application/json\r\nContent-Encoding: {coding}\r\n"
    packed, request = tmp_path / "packed", tmp_path / "request"
    packed.write_bytes(body)
    request.write_bytes(f"POST /v1/chat/completions HTTP/1.1\r\n{fields}\r\n".encode() + body)
    curl = f"curl h/v1/chat/completions --data-binary @{packed}" + "".join(
        f" -H '{field}'" for field in fields.splitlines()
    )
    for given in (str(request), curl):
        lines = explained(capsys, given, *UPSTREAMS, "--inspect-limit=1KiB")
        assert lines["body"][0].startswith(state)
        read = state == "read"
        assert (lines["model"] == ["m"], lines["session"][0].startswith("packed ")) == (read, read)


@pytest.mark.parametrize(
    "line,method,target,body",
    [
        ("curl localhost:7070", "GET", b"/", b""),
        ("curl -I http://h/x", "HEAD", b"/x", b""),
        ("curl -XPUT http://h/x -d a -d b", "PUT", b"/x", b"a&b"),
        ("curl -G http://h/x?y=1 -d a=b", "GET", b"/x?y=1&a=b", b""),
        ("curl -sS --compressed -u me:secret -o out http://h/x", "GET", b"/x", b""),
        ("curl --url http://h/x \\\n  --data-raw '{}'", "POST", b"/x", b"{}"),
        ("curl http://h/x \\\n  -H 'a: b' \\\r\n -d c", "POST", b"/x", b"c"),
        ("curl\thttp://h/x", "GET", b"/x", b""),
        ("curl --connect-timeout 5 -H 'a: b' http://h/x", "GET", b"/x", b""),
        ("curl -H 'a: b' --retry 3 -e http://r/y h/x -b c=d", "GET", b"/x", b""),
        ("curl http://h/x --resolve h:80:127.0.0.1 -d a", "POST", b"/x", b"a"),
        ("curl -sSXPUT http://h/x", "PUT", b"/x", b""),
        ("curl -vX DELETE http://h/x", "DELETE", b"/x", b""),
        ("curl http://h/x -d ''", "POST", b"/x", b""),
        ("curl http://h/x -d '' -G", "GET", b"/x", b""),
        ("curl http://h/x --data-raw @name", "POST", b"/x", b"@name"),
        (
            "curl http://h/x --data-urlencode 'a=b c&d' --data-urlencode 'é'",
            "POST",
            b"/x",
            b"a=b%20c%26d&%C3%A9",
        ),
        ("curl http://h/x -F model=m -F 'file=@a.mp3'", "POST", b"/x", b"model=m\r\nfile=@a.mp3"),
        (r"""curl http://h/x -d $'it\'s\u0021\n\x21a' """, "POST", b"/x", b"it's!\n!a"),
        (r"""curl http://h/x -d '5$' -d 'a\n' -d "\"$'b'" """, "POST", b"/x", b"5$&a\\n&\"$'b'"),
    ],
)
def test_curl_lines(line: str, method: str, target: bytes, body: bytes) -> None:
    """The usual ways to write one."""
    read = read_request(line)
    assert (read.method, read.target, read.body) == (method, target, body)


@pytest.mark.parametrize(
    "option,content",
    [
        ("-d @{}", b'{"model":"m"}'),
        ("--data-binary @{}", b'{"model":\r\n"m"}\n'),
        ("--json @{}", b'{"model":\r\n"m"}\n'),
        ("--data-urlencode name@{}", b"name=%7B%22model%22%3A%0D%0A%22m%22%7D%0A"),
    ],
)
def test_a_body_in_a_file(option: str, content: bytes, tmp_path: Path) -> None:
    """As curl reads it: with `-d` without its line ends."""
    path = tmp_path / "body.json"
    path.write_bytes(b'{"model":\r\n"m"}\n')
    assert read_request(f"curl http://h/x {option.format(path)}").body == content


def test_kinds_of_bodies() -> None:
    """What curl says of them where the line does not."""
    for options, kind in (
        ("-d a", b"application/x-www-form-urlencoded"),
        ("--json {}", b"application/json"),
        ("-F a=b", b"multipart/form-data"),
        ("-F a=b -H 'content-type: text/x'", b"text/x"),
        ("-d a -G", None),
    ):
        assert read_request(f"curl http://h/x {options}").headers.get(b"content-type") == kind


NO_REQUESTS = [
    *("", "hello", "curl", "curl 'http://h", "get /x", "curl -H", "curl http://[::1/x", "GET http://[::1/x"),
    *(
        "curl http://h/x\ncurl http://h/y -d a",
        "curl http://h/x -d a http://h/y",
        "curl --url http://h --url http://i",
    ),
    *("curl h -d @/nowhere", "curl h --json @/nowhere", "curl h -d @-", "curl h --data-urlencode a@/nowhere"),
]


@pytest.mark.parametrize("text", NO_REQUESTS)
def test_what_is_no_request(text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Told in a line, with 1."""
    with pytest.raises(RequestTextError):
        read_request(text)
    path = tmp_path / "request"
    path.write_text(text)
    assert cli.main(["explain", str(path), *UPSTREAMS], {}) == 1
    assert capsys.readouterr().err.startswith("sidecar: ")


@pytest.mark.parametrize("flags", [[], UPSTREAMS])
def test_a_file_that_is_missing(flags: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Told before settings are, with what to give."""
    path = tmp_path / "none"
    assert cli.main(["explain", str(path), *flags], {}) == 1
    assert capsys.readouterr().err == (
        f"sidecar: {path}: No such file or directory; give a request as a file, on standard input, or as 'curl ...'\n"
    )


def test_a_locale_without_the_characters(tmp_path: Path) -> None:
    """Both ways: the line is UTF-8 nevertheless, and what cannot be printed becomes a question mark."""
    environ = {
        "LC_ALL": "C",
        "PYTHONUTF8": "0",
        "PYTHONCOERCECLOCALE": "0",
        "PATH": "",
        "HOME": str(tmp_path),
    }
    line = curl("/v1/chat/completions", body={"model": "x"}).replace('"x"', '"modèle"')
    done = subprocess.run(
        [sys.executable, "-m", "sidecar", "explain", line, *UPSTREAMS],
        env=environ,
        capture_output=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"\nmodel         mod?le\n" in done.stdout


def test_a_path_for_no_upstream(capsys: pytest.CaptureFixture[str]) -> None:
    """What the answer would be."""
    lines = explained(capsys, curl("/nobody/v1"), "--upstreams=a=https://a.test")
    assert lines["upstream"] == ["none: the answer is 404, as the path begins with none of a"]


@pytest.mark.parametrize(
    "text",
    [
        "curl -X '\x1b[2JGET' http://127.0.0.1:7070/v1/models",
        "curl --max-time '\x1b[2J' http://127.0.0.1:7070/v1/models",
        "curl '--\x1b[2J' http://127.0.0.1:7070/v1/models",
        "curl 'http://[\x1b[2J/'",
        "curl --data @/nowhere/\x1b[2J http://127.0.0.1:7070/v1/models",
        "curl --max-time=5 --\x1b[2J=1 http://127.0.0.1:7070/v1/models",
    ],
)
def test_nothing_of_a_request_steers_the_terminal(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Neither in what is told of it nor in why it cannot be read."""
    cli.main(["explain", text, *UPSTREAMS], {})
    told = "".join(capsys.readouterr())
    assert told
    assert "\x1b" not in told
