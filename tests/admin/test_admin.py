"""The admin port over real sockets: what it answers, and to whom it does not."""

import asyncio
import contextlib
import json
import re
import sys
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, NamedTuple, get_type_hints

import aiohttp
import pytest

from sidecar.admin import (
    ActiveRequest,
    AdminView,
    ConversationView,
    Figures,
    Port,
    RecentRequest,
    RequestCounts,
    Running,
    RunningRequest,
    SessionCounts,
    SessionDetail,
    SessionView,
    Stats,
    create_admin_app,
    create_health_app,
    serve,
)
from sidecar.admin.view import Rendering
from sidecar.errors import CannotListenError
from sidecar.live.request import Bar, Detail, Link, Step
from sidecar.settings import Address
from tests.live.boards import empty_board

serving = sys.modules["sidecar.admin.serve"]

ANY = Address("127.0.0.1", 0)
HEALTH = ("/startup", "/liveness", "/readiness")
DOCUMENTS = (
    Stats,
    RequestCounts,
    SessionCounts,
    SessionView,
    SessionDetail,
    ConversationView,
    ActiveRequest,
    RecentRequest,
    Running,
    RunningRequest,
    Figures,
    Bar,
    Detail,
    Step,
    Link,
)

ROW = SessionView(
    id="a/b ?%41",
    source="own_header",
    started_at="2026-01-01T00:00:00Z",
    idle_s=None,
    conversations=1,
    requests=2,
    in_flight=1,
)


class Scripted(AdminView):
    """A sidecar with one session, which drains when told to."""

    def __init__(self) -> None:
        self.draining = False

    def ready(self) -> bool:
        """False once told to shut down."""
        return not self.draining

    def stats(self) -> Stats:
        """Fixed numbers."""
        return Stats(
            version="1",
            state="draining" if self.draining else "ready",
            uptime_s=1.5,
            requests=RequestCounts(started=3, settled=2, in_flight=1, quiet=0, outcomes={"completed": 2}),
            sessions=SessionCounts(total=1, active=1, completed=2, failed=0, out_of_order=0),
            telemetry={"traces": {"exported": 4}},
            anomalies={},
        )

    def sessions(self) -> list[SessionView]:
        """The one session."""
        return [ROW]

    def running(self) -> Running:
        """Nothing."""
        return Running(sessions=[], requests=[])

    def session(self, session_id: str) -> SessionDetail | None:
        """The one session, by its id."""
        return (
            SessionDetail(**ROW, conversation_list=[], active=[], recent=[])
            if session_id == ROW["id"]
            else None
        )

    def metrics(self, accept: str) -> Rendering:
        """Tells in the content type what was accepted."""
        kind = f"text/plain; accepted={accept.replace('/', '.') or 'none'}; charset=utf-8"
        return Rendering(iter(()), lambda: (b"# EOF\n", kind))

    def shutdown(self) -> None:
        """Begins the drain."""
        self.draining = True


class Admin:
    """An open admin port and a client for it."""

    def __init__(self, port: Port, view: Scripted, client: aiohttp.ClientSession) -> None:
        self.port = port
        self.view = view
        self.client = client

    async def ask(self, path: str, method: str = "GET", **headers: str) -> tuple[int, dict[str, object]]:
        """Status and JSON body; header names are given with underscores."""
        fields = {name.replace("_", "-"): value for name, value in headers.items()}
        async with self.client.request(method, f"http://{self.port.address}{path}", headers=fields) as answer:
            assert answer.headers["Cache-Control"] == "no-store"
            return answer.status, await answer.json()


class Answer(NamedTuple):
    """A raw answer; names of fields in lower case."""

    status: int
    fields: dict[str, str]
    text: str

    @property
    def body(self) -> dict[str, Any]:
        """The JSON of the body."""
        return dict(json.loads(self.text))


async def raw(port: Port, *lines: str) -> Answer:
    """Sends a head as it stands, one character a byte, and takes the last answer of the connection."""
    reader, writer = await asyncio.open_connection(port.address.host, port.address.port)
    writer.write("\r\n".join((*lines, "Connection: close", "", "")).encode("latin-1"))
    async with asyncio.timeout(60):
        data = await reader.read()
    writer.close()
    head, _, body = data.decode().rpartition("\r\n\r\n")
    status, *fields = head.rpartition("HTTP/1.")[2].split("\r\n")
    pairs = (field.split(": ", 1) for field in fields)
    return Answer(int(status.split(" ")[1]), {name.lower(): value for name, value in pairs}, body)


async def opened(
    *, token: str | None = None, listen: Address = ANY, prometheus: bool = True
) -> AsyncIterator[Admin]:
    """An admin port on loopback that believes to listen on `listen`."""
    view = Scripted()
    app = create_admin_app(view, empty_board(), listen=listen, token=token, prometheus=prometheus)
    port = await serve(app, ANY, setting="SIDECAR_ADMIN_LISTEN")
    async with aiohttp.ClientSession() as client:
        yield Admin(port, view, client)
    await port.close()


@pytest.fixture
async def admin() -> AsyncIterator[Admin]:
    """An admin port as it is by default, with /metrics."""
    async for one in opened():
        yield one


async def test_documents(admin: Admin) -> None:
    """Stats, sessions and one session are the view's documents, as JSON."""
    assert await admin.ask("/stats") == (200, admin.view.stats())
    assert await admin.ask("/sessions") == (200, {"sessions": [ROW]})
    status, session = await admin.ask("/sessions/a%2Fb%20%3F%2541")
    assert (status, session["id"]) == (200, ROW["id"])


async def test_errors_are_json(admin: Admin) -> None:
    """Unknown session, unknown path, wrong method: each says so in JSON."""
    status, body = await admin.ask("/sessions/none")
    assert status == 404
    assert "no session with this id" in str(body["error"])
    assert (await admin.ask("/nothing"))[0] == 404
    async with admin.client.get(f"http://{admin.port.address}/shutdown") as answer:
        assert (answer.status, answer.headers["Allow"]) == (405, "POST")
        assert (await answer.json())["error"] == {"status": 405, "message": "Method Not Allowed"}
    assert admin.view.ready()


async def test_shutdown_makes_it_unready(admin: Admin) -> None:
    """Readiness falls with the drain; liveness and startup stay."""
    for path in HEALTH:
        assert await admin.ask(path) == (200, {"status": "ok"})
    assert await admin.ask("/shutdown", "POST") == (202, {"status": "draining"})
    assert await admin.ask("/readiness") == (503, {"status": "draining"})
    assert (await admin.ask("/liveness"))[0] == (await admin.ask("/startup"))[0] == 200


async def test_metrics(admin: Admin) -> None:
    """The text and its content type come from the view, which sees `Accept`."""
    url = f"http://{admin.port.address}/metrics"
    async with admin.client.get(url, headers={"Accept": "text/plain"}) as answer:
        assert answer.headers["Content-Type"] == "text/plain; accepted=text.plain; charset=utf-8"
        assert await answer.read() == b"# EOF\n"


async def test_making_the_text_holds_up_nothing(admin: Admin, monkeypatch: pytest.MonkeyPatch) -> None:
    """With thousands of series it takes long: another thread makes it, one at a time."""
    begun, let_go, making = threading.Event(), threading.Event(), []

    def render() -> tuple[bytes, str]:
        making.append(threading.current_thread())
        begun.set()
        let_go.wait(60)
        return b"# EOF\n", "text/plain"

    monkeypatch.setattr(admin.view, "metrics", lambda _accept: Rendering(iter(()), render))
    scrapes = [
        asyncio.create_task(raw(admin.port, "GET /metrics HTTP/1.1", "Host: localhost")) for _ in range(3)
    ]
    await asyncio.to_thread(begun.wait, 60)
    assert (await admin.ask("/liveness"))[0] == 200
    assert len(making) == 1
    let_go.set()
    assert [answer.text for answer in await asyncio.gather(*scrapes)] == ["# EOF\n"] * 3
    assert threading.main_thread() not in making


async def test_metrics_off() -> None:
    """Without SIDECAR_PROMETHEUS there is no such path, and the answer says what turns it on."""
    async for admin in opened(prometheus=False):
        status, body = await admin.ask("/metrics")
        assert status == 404
        assert "SIDECAR_PROMETHEUS=on" in str(body["error"])


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST:7071", "app.localhost", "127.0.0.1", "127.9.9.9:1", "[::1]:7071"]
)
async def test_hosts_served(admin: Admin, host: str) -> None:
    """Loopback under any of its names."""
    assert (await admin.ask("/stats", Host=host))[0] == 200


@pytest.mark.parametrize(
    "host",
    [
        *("evil.example", "localhost.evil.example", "10.0.0.1", "127.0.0.1.evil.example", "[::1", "x:y:z"),
        *(
            "evil.com@127.0.0.1",
            "evil.com\\@127.0.0.1",
            "evil.com:x@localhost",
            "127.0.0.1/x",
            "localhost?x",
            "lo#",
        ),
        *(
            "127.0.0.1:1:2",
            "127.0.0.1:",
            "127.0.0.1:123456",
            "localhost, evil.example",
            "[127.0.0.1",
            "::1",
            "*",
        ),
        *("[::1]evil.example", "[::1]:x", "localhost evil.example", "[evil.example]", "0x7f.1"),
    ],
)
async def test_hosts_refused(admin: Admin, host: str) -> None:
    """A page whose own name resolves to loopback gets nothing, health included."""
    for path in ("/stats", "/liveness"):
        status, body = await admin.ask(path, Host=host)
        assert status == 403
        assert "Host" in str(body["error"])


async def test_host_that_is_listened_on() -> None:
    """A name or address of its own is served, others are not; a wildcard serves every name that needs the token.

    Without one, as `sidecar view` has none, it serves addresses alone: no page can have one for its name.
    """
    async for admin in opened(listen=Address("10.1.2.3", 7071)):
        assert (await admin.ask("/stats", Host="10.1.2.3:7071"))[0] == 200
        assert (await admin.ask("/stats", Host="10.1.2.4:7071"))[0] == 403
    async for admin in opened(listen=Address("0.0.0.0", 7071), token="long-enough"):
        assert (await admin.ask("/stats", Host="sidecar.svc:7071"))[0] == 401
        assert (await admin.ask("/stats", Host="sidecar.svc:7071", Authorization="Bearer long-enough"))[
            0
        ] == 200
    for wildcard in ("0.0.0.0", "::"):
        async for admin in opened(listen=Address(wildcard, 7071)):
            for host in ("10.1.2.3:7071", "[fd00::1]:7071", "localhost"):
                assert (await admin.ask("/stats", Host=host))[0] == 200
            for host in ("evil.example", "sidecar.svc:7071", "10.1.2.3.evil.example"):
                assert (await admin.ask("/stats", Host=host))[0] == 403


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Sec_Fetch_Site": "cross-site"},
        {"Sec_Fetch_Site": "same-site"},
    ],
)
async def test_cross_site_is_refused(admin: Admin, headers: dict[str, str]) -> None:
    """What a browser sends for another site's page has no effect."""
    assert (await admin.ask("/shutdown", "POST", **headers))[0] == 403
    assert (await admin.ask("/stats", **headers))[0] == 403
    assert admin.view.ready()


async def test_same_origin_is_served(admin: Admin) -> None:
    """A page of the port itself may ask."""
    own = f"http://{admin.port.address}"
    assert (await admin.ask("/stats", Origin=own, Sec_Fetch_Site="same-origin"))[0] == 200


async def test_token() -> None:
    """With a token everything but health needs it, whole and as Bearer."""
    async for admin in opened(token="correct-horse"):
        for path in HEALTH:
            assert (await admin.ask(path))[0] == 200
        for wrong in (
            "",
            "Bearer",
            "Bearer correct",
            "Basic correct-horse",
            "Bearer correct-horse2",
            "Bearer corréct",
        ):
            status, _ = await admin.ask("/stats", Authorization=wrong)
            assert status == 401
        async with admin.client.get(f"http://{admin.port.address}/nothing") as answer:
            assert (answer.status, answer.headers["WWW-Authenticate"]) == (401, "Bearer")
        assert (await admin.ask("/stats", Authorization="bearer correct-horse"))[0] == 200


REFUSED_BY_ONE_OF_TWO = (
    ("Host: 127.0.0.1", "Host: 127.0.0.1"),
    ("Host: 127.0.0.1", "Host: evil.example"),
    ("Host: 127.0.0.1", "Origin: http://127.0.0.1", "Origin: https://evil.example"),
    ("Host: 127.0.0.1", "Origin: https://evil.example", "Origin: http://127.0.0.1"),
    ("Host: 127.0.0.1", "Sec-Fetch-Site: same-origin", "Sec-Fetch-Site: cross-site"),
    ("Host: 127.0.0.1", "sec-fetch-site: none", "SEC-FETCH-SITE: same-site"),
    ("Host: 127.0.0.1", "Sec-Fetch-Site: none, cross-site"),
    ("Host: 127.0.0.1", "Origin:"),
    ("Host: 127.0.0.1", "Origin: \xff"),
)


@pytest.mark.parametrize("lines", REFUSED_BY_ONE_OF_TWO)
async def test_every_field_of_a_name_counts(admin: Admin, lines: tuple[str, ...]) -> None:
    """Not only the first; two Hosts may be refused before they are looked at."""
    answer = await raw(admin.port, "GET /stats HTTP/1.1", *lines)
    assert answer.status in {400, 403}
    assert answer.body["error"]["status"] == answer.status


SECRET = "correct-horse-battery"
ODD_HEADS = (
    # what aiohttp refuses before there is a request
    ("GET /stats HTTP/1.1", f"Authorization: Bearer {SECRET}\x00"),
    ("GET /stats HTTP/1.1", f"Authorization : Bearer {SECRET}"),
    ("GET /stats HTTP/1.1", f"Authorization: Bearer {SECRET}{'x' * 9000}"),
    ("GET /stats HTTP/1.1", f"X{SECRET}"),
    ("GET /stats HTTP/1.1", f"{SECRET} x: y"),
    ("GET /stats HTTP/1.1", "Content-Length: 1", f"Content-Length: {SECRET}"),
    (f"GET /stats?token={SECRET} x HTTP/1.1", "Host: localhost"),
    (f"GET /stats?token={SECRET} HTTP/9.9x", "Host: localhost"),
    (f"{SECRET} /stats HTTP/1.1", "Host: localhost"),
    (f"GET /{'x' * 9000}{SECRET} HTTP/1.1", "Host: localhost"),
    (f"\x16\x03\x01{SECRET}", ""),
    ("GET /stats HTTP/1.1", "Host: localhost", f"Transfer-Encoding: {SECRET}"),
    ("GET /stats HTTP/1.1", "Host: localhost", *(f"x-{n}: {SECRET}" for n in range(300))),
    # what reaches the guard or a handler
    ("GET /stats HTTP/1.1", "Host: localhost", "Authorization: Bearer \xff"),
    ("GET /stats HTTP/1.1", "Host: localhost", "Authorization: \xff\xfe"),
    ("GET /stats HTTP/1.1", "Host: localhost", "Authorization: Bearer \xc3\xa9\x80"),
    ("GET /stats HTTP/1.1", "Host: \xff"),
    ("GET /stats HTTP/1.1", "Host: localhost", "Origin: \xff"),
    (f"GET /stats?token={SECRET} HTTP/1.1", "Host: localhost"),
    (f"GET /{SECRET} HTTP/1.1", "Host: localhost"),
    ("GET /\xff\xfe HTTP/1.1", "Host: localhost"),
    ("GET /sessions/%ff%00%0a HTTP/1.1", "Host: localhost"),
    ("GET /sessions/\xff HTTP/1.1", "Host: localhost"),
    ("GET //stats HTTP/1.1", "Host: localhost"),
    ("GET http://[::1/stats HTTP/1.1", "Host: localhost"),
    ("GET http:///stats HTTP/1.1", "Host: localhost"),
    ("GET http://u:p@localhost:99999/stats HTTP/1.1", "Host: localhost"),
    ("OPTIONS * HTTP/1.1", "Host: localhost"),
    ("CONNECT localhost:1 HTTP/1.1", "Host: localhost"),
    ("GET /stats HTTP/1.1", "Host: localhost", "Upgrade: websocket", "Connection: upgrade"),
    ("GET /stats HTTP/1.1", "Host: localhost", "Expect: 100-continue"),
    ("GET /stats HTTP/1.1", "Host: localhost", "Expect: something"),
    ("POST /shutdown HTTP/1.1", "Host: localhost", "Content-Length: 0", "X: \xff"),
    ("GET /stats HTTP/1.0",),
    ("GET /stats HTTP/1.1", "Host: localhost", "Cookie: \xff=\xff", "Content-Type: \xff", "Range: x"),
    ("GET /stats HTTP/1.1", "Host: localhost", "Content-Encoding: gzip", "Content-Length: 0"),
    ("GET /stats HTTP/1.1", "Host: localhost", "If-Modified-Since: \xff"),
)


@pytest.mark.parametrize("lines", ODD_HEADS)
@pytest.mark.parametrize("health", [False, True], ids=["admin", "health"])
async def test_no_head_is_too_odd(
    lines: tuple[str, ...], health: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """Refused as JSON, never a mistake of ours; what was sent stands neither in the answer nor in a log."""
    app = (
        create_health_app(Scripted())
        if health
        else create_admin_app(Scripted(), empty_board(), listen=ANY, token=SECRET, prometheus=True)
    )
    port = await serve(app, ANY, setting="SIDECAR_ADMIN_LISTEN")
    try:
        answer = await raw(port, *lines)
    finally:
        await port.close()
    assert 400 <= answer.status < 500
    assert answer.body["error"]["status"] == answer.status
    assert answer.fields["cache-control"] == "no-store"
    assert SECRET not in answer.text
    assert SECRET not in caplog.text + "".join(str(record.exc_info) for record in caplog.records)


async def test_health_port() -> None:
    """A health port serves health under any name, and nothing else."""
    view = Scripted()
    port = await serve(create_health_app(view), ANY, setting="SIDECAR_HEALTH_LISTEN")
    async with aiohttp.ClientSession() as client:
        for path, status in (("/readiness", 200), ("/stats", 404), ("/shutdown", 404)):
            async with client.get(f"http://{port.address}{path}", headers={"Host": "10.0.0.7:1"}) as answer:
                assert answer.status == status
        view.shutdown()
        async with client.get(f"http://{port.address}/readiness") as answer:
            assert answer.status == 503
    await port.close()


async def test_port_in_use() -> None:
    """A second sidecar hears which port it was, and which setting moves it."""
    port = await serve(create_health_app(Scripted()), ANY, setting="SIDECAR_HEALTH_LISTEN")
    with pytest.raises(CannotListenError) as caught:
        await serve(create_health_app(Scripted()), port.address, setting="SIDECAR_ADMIN_LISTEN")
    assert str(caught.value) == f"cannot listen on {port.address} (SIDECAR_ADMIN_LISTEN): the port is in use"
    await port.close()


def test_docs_name_every_field() -> None:
    """`docs/admin.md` has every field of every document, and every word in backticks in its tables exists."""
    text = (Path(__file__).parents[2] / "docs" / "admin.md").read_text()
    fields = {name for document in DOCUMENTS for name in get_type_hints(document)}
    assert {name for name in fields if f"`{name}`" not in text} == set()
    first_cells = re.findall(r"^\| (`.*?) \|", text.partition("## `GET /stats`")[2], re.MULTILINE)
    assert {name for cell in first_cells for name in re.findall(r"`(\w+)`", cell)} <= fields


HEADS = (
    (b"GET /stats HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer s3cret\0\r\n\r\n", 400),
    (b"GET /stats HTTP/1.1\r\nHost: localhost\r\nAuthorization : Bearer s3cret\r\n\r\n", 400),
    (b"GET /stats?token=s3cret x HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
    (
        b"GET /stats HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer " + b"s3cret" * 2000 + b"\r\n\r\n",
        431,
    ),
    (b"GET /" + b"s3cret" * 2000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n", 431),
    (b"\x16\x03\x01\0s3cret\r\n\r\n", 400),
)


@pytest.mark.parametrize("health", [False, True])
@pytest.mark.parametrize("data, status", HEADS, ids=range(len(HEADS)))
async def test_what_is_not_http_is_not_repeated(
    data: bytes, status: int, health: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """JSON that says so, the connection closed, and nothing of what came in the answer or the log."""
    view = Scripted()
    app = (
        create_health_app(view)
        if health
        else create_admin_app(view, empty_board(), listen=ANY, token=None, prometheus=True)
    )
    port = await serve(app, ANY, setting="SIDECAR_ADMIN_LISTEN")
    reader, writer = await asyncio.open_connection(port.address.host, port.address.port)
    writer.write(data)
    answer = await asyncio.wait_for(reader.read(), 30)
    writer.close()
    await port.close()
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.split()[1] == b"%d" % status
    assert json.loads(body)["error"]["status"] == status
    assert b"s3cret" not in answer
    assert "s3cret" not in caplog.text


@pytest.mark.parametrize("begun", [b"", b"GET /liv", HEADS[0][0][:20]], ids=["nothing", "half", "more"])
async def test_a_silent_connection_is_closed(begun: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also one that goes on sending a head that never ends."""
    monkeypatch.setattr(serving, "SILENCE", 0.3)
    port = await serve(create_health_app(Scripted()), ANY, setting="SIDECAR_HEALTH_LISTEN")
    reader, writer = await asyncio.open_connection(port.address.host, port.address.port)
    writer.write(begun)
    assert await asyncio.wait_for(reader.read(), 30) == b""
    writer.close()
    await port.close()


async def test_a_connection_is_looked_at_before_it_is_judged() -> None:
    """What came while this process stood still is answered, though its time is up by then; without anything it is closed."""
    app, ask = create_health_app(Scripted()), b"GET /liveness HTTP/1.1\r\nHost: localhost\r\n\r\n"
    port = await serve(app, ANY, setting="SIDECAR_HEALTH_LISTEN")
    reader, writer = await asyncio.open_connection(port.address.host, port.address.port)
    writer.write(ask)
    assert (await asyncio.wait_for(reader.readuntil(b"}"), 30)).startswith(b"HTTP/1.1 200")
    server: Any = port._runner.server
    (connection,) = server.connections
    for sent in (ask, b""):
        writer.write(sent)
        connection._next_keepalive_close_time = 0.0
        connection._process_keepalive()
        answer = await asyncio.wait_for(reader.readuntil(b"}") if sent else reader.read(), 30)
        assert answer.startswith(b"HTTP/1.1 200") if sent else answer == b""
    writer.close()
    await port.close()


async def test_the_longest_silent_goes_first() -> None:
    """More connections than a port has: the newest are served, and one that spoke lately is kept."""
    port = await serve(create_health_app(Scripted()), ANY, setting="SIDECAR_HEALTH_LISTEN")
    where = (port.address.host, port.address.port)
    ask = b"GET /liveness HTTP/1.1\r\nHost: localhost\r\n\r\n"
    opened = [await asyncio.open_connection(*where) for _ in range(serving.CONNECTIONS)]
    for reader, writer in (*opened[1:], opened[0]):
        writer.write(ask)
        assert (await asyncio.wait_for(reader.readuntil(b"}"), 30)).startswith(b"HTTP/1.1 200")
    newest = await asyncio.open_connection(*where)
    newest[1].write(ask)
    assert (await asyncio.wait_for(newest[0].readuntil(b"}"), 30)).startswith(b"HTTP/1.1 200")
    with contextlib.suppress(ConnectionResetError):
        assert await asyncio.wait_for(opened[1][0].read(), 30) == b""
    opened[0][1].write(ask)
    assert (await asyncio.wait_for(opened[0][0].readuntil(b"}"), 30)).startswith(b"HTTP/1.1 200")
    for _, writer in (*opened, newest):
        writer.close()
    await port.close()
