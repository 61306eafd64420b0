"""The peers of the soak: honest apps, and everybody who could stop, starve or kill a proxy, in one crowd.

A process of its own (`python -m tests.soak.peers PORT ADMIN_PORT HEALTH_PORT`), so that its work is not mistaken for the
sidecar's, and that all of it can be stopped at once. It plays until its standard input ends, and then prints how often it
played whom (JSON). Owns no expectation: what became of it all is asked of the sidecar.
"""

import gzip
import json
import random
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass

from sidecar.testing import RawClient, request_bytes
from tests.apis.example import Example
from tests.apis.golden.openai_chat import CHAT
from tests.hostility import requests_bodies, requests_fields, requests_lines
from tests.matrix.matrix_apis import EXAMPLES
from tests.soak.provider import BROKEN, SECRET

CROWD = 12
"""Peers at once."""

JSON = b"Content-Type: application/json"
CHUNKED = b"Transfer-Encoding: chunked"
MALFORMED = [
    row.data
    for row in (*requests_lines.ROWS, *requests_fields.ROWS, *requests_bodies.ROWS)
    if len(row.data) < 4000
]
FAT = b"a" * 60_000
ODD_HEADS = (
    b"GET /" + FAT + b" HTTP/1.1\r\nHost: h\r\n\r\n",
    b"GET /?" + FAT + b" HTTP/1.1\r\nHost: h\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: h\r\nUser-Agent: " + FAT + b"\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: h\r\nCookie: " + SECRET * 8000 + b"\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: h\r\n" + b"A: b\r\n" * 300 + b"\r\n",
    b"GET / HTTP/1.1\r\nHost: h\r\nbaggage: " + b"a=b," * 10_000 + b"c=d\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: u:" + SECRET + b"@h\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: h\r\nProxy-Connection: close\r\n\r\n",
    b"GET / HTTP/1.0\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: h\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n\r\n",
    (
        b"GET /v1/responses HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    ),
    b"CONNECT h:443 HTTP/1.1\r\nHost: h\r\n\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
)
ODD_ADMIN = (
    b"GET /stats HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer " + SECRET + b"\0\r\n\r\n",
    b"GET /stats HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization : Bearer " + SECRET + b"\r\n\r\n",
    b"GET /stats HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: " + SECRET * 1500 + b"\r\n\r\n",
    b"GET /stats?token=" + SECRET + b" x HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
    b"GET /stats HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer \xff\r\n\r\n",
    b"GET /metrics HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: x;version=\xff\r\n\r\n",
    b"GET /stats HTTP/1.1\r\nHost: evil.example\r\n\r\n",
    b"GET /sta",
    b"\0\0\0\0\r\n\r\n",
    b"",
)


@dataclass(frozen=True, slots=True)
class Sidecar:
    """Where it is."""

    port: int
    admin: int
    health: int


Peer = Callable[[Sidecar, random.Random], None]
PACKED_BLANKS = gzip.compress(b" " * (16 << 20))


def _request(
    dice: random.Random, play: str, api: Example, *, streamed: bool = False, path: str | None = None
) -> bytes:
    """A request of an app: by this API, of one of some sessions, or of none."""
    asked = {**api.request, **(api.stream.request if streamed and api.stream else {})}
    if "model" in asked and dice.random() < 0.1:
        asked["model"] = f"model-{dice.randrange(100_000)}"
    if "model" in asked and dice.random() < 0.01:
        asked["model"] = "odd\x1b[2J\x07\r\x7f\x9b"
    fields = [JSON, b"X-Play: " + play.encode(), b"Authorization: Bearer " + SECRET]
    if dice.random() < 0.7:
        fields.append(b"X-Sidecar-Session-Id: s-%d" % dice.randrange(200))
    elif dice.random() < 0.2:
        fields.append(b"X-Sidecar-Session-Id: s-%d" % dice.randrange(1_000_000))
    if dice.random() < 0.1:
        fields.append(b"X-Sidecar-Conversation-Id: c-%d" % dice.randrange(100_000))
    target = path or (api.stream.path if streamed and api.stream else api.path)
    return request_bytes("POST", target, headers=fields, body=json.dumps(asked).encode())


def _read(client: RawClient) -> None:
    with suppress(EOFError):
        client.read_answer("POST")


def whole(sidecar: Sidecar, dice: random.Random) -> None:
    """Some calls over one connection."""
    with RawClient(sidecar.port) as client:
        for _ in range(dice.randint(1, 8)):
            client.send(_request(dice, "whole", dice.choice(EXAMPLES)))
            _read(client)


def streamed(sidecar: Sidecar, dice: random.Random) -> None:
    """Some streams over one connection."""
    with RawClient(sidecar.port) as client:
        for _ in range(dice.randint(1, 4)):
            client.send(_request(dice, "stream", dice.choice(EXAMPLES), streamed=True))
            _read(client)


def at_once(sidecar: Sidecar, dice: random.Random) -> None:
    """Calls of one conversation that overlap."""
    with ExitStack() as stack:
        clients = [stack.enter_context(RawClient(sidecar.port)) for _ in range(6)]
        state = dice.getstate()
        for client in clients:
            dice.setstate(state)
            client.send(_request(dice, "stream", CHAT, streamed=True))
        for client in clients:
            _read(client)


def talks(sidecar: Sidecar, dice: random.Random) -> None:
    """A conversation that nobody names: each request carries all that went before."""
    said: list[object] = [{"role": "system", "content": f"{SECRET.decode()} {dice.random()}"}]
    with RawClient(sidecar.port) as client:
        for _ in range(dice.randint(2, 12)):
            said.append({"role": "user", "content": f"{SECRET.decode()} {dice.random()}"})
            body = json.dumps({"model": "gpt-4o", "messages": said}).encode()
            head = (JSON, b"X-Play: whole", b"x-api-key: " + SECRET)
            client.send(request_bytes("POST", CHAT.path, headers=head, body=body))
            with suppress(EOFError, ValueError, LookupError):
                answer = json.loads(client.read_answer("POST").body)
                said.append(answer["choices"][0]["message"])
            if dice.random() < 0.1:
                del said[dice.randrange(1, len(said)) :]


def broken_provider(sidecar: Sidecar, dice: random.Random) -> None:
    """An honest call whose provider is not well."""
    with RawClient(sidecar.port) as client:
        api = dice.choice(EXAMPLES)
        client.send(_request(dice, dice.choice(BROKEN), api, streamed=dice.random() < 0.7))
        _read(client)


def leaves(sidecar: Sidecar, dice: random.Random) -> None:
    """A client that goes before its answer is whole."""
    with RawClient(sidecar.port) as client:
        play = dice.choice(["stalls", "hangs", "stream", "large", "takes-slowly"])
        if play == "takes-slowly":
            client.send_what_fits(_upload(dice, play))
        else:
            client.send(_request(dice, play, CHAT, streamed=True))
        time.sleep(dice.random() * 0.3)
        dice.choice([client.reset, client.close, client.half_close])()


def no_upstream(sidecar: Sidecar, dice: random.Random) -> None:
    """A call to an upstream that refuses, or whose name is unknown or hangs."""
    name = dice.choice(["refused", "unknown", "hanging"])
    with RawClient(sidecar.port) as client:
        client.send(_request(dice, "whole", CHAT, path=f"/{name}/v1/chat/completions"))
        _read(client)


def malformed(sidecar: Sidecar, dice: random.Random) -> None:
    """What is not HTTP, or nearly."""
    with RawClient(sidecar.port, timeout=3) as client:
        client.send(dice.choice(MALFORMED))
        client.half_close()
        client.read_to_end()


def odd_heads(sidecar: Sidecar, dice: random.Random) -> None:
    """Heads that are large, old, or want another protocol, a good request behind them."""
    with RawClient(sidecar.port, timeout=3) as client:
        client.send(dice.choice(ODD_HEADS) + request_bytes("GET", "/x"))
        client.half_close()
        client.read_to_end()


def half_a_head(sidecar: Sidecar, dice: random.Random) -> None:
    """Silent connections, on each port."""
    with ExitStack() as stack:
        for _ in range(30):
            port = dice.choice([sidecar.port, sidecar.admin, sidecar.health])
            client = stack.enter_context(RawClient(port))
            client.send(dice.choice([b"", b"G", b"POST /v1/chat/completions HTTP/1.1\r\nHost: h\r\n"]))
        time.sleep(dice.random() * 4)


def admin(sidecar: Sidecar, dice: random.Random) -> None:
    """Odd visitors of the admin port."""
    with RawClient(dice.choice([sidecar.admin, sidecar.health]), timeout=3) as client:
        client.send(dice.choice(ODD_ADMIN))
        client.half_close()
        client.read_to_end()


def looks(sidecar: Sidecar, dice: random.Random) -> None:
    """Those who watch it: a scrape, a probe, an operator."""
    pages = ("/metrics", "/stats", "/sessions", "/readiness", "/liveness", "/startup")
    with RawClient(sidecar.admin) as client:
        for page in dice.choices(pages, k=3):
            client.send(request_bytes("GET", page, host="127.0.0.1"))
            _read(client)
    with RawClient(sidecar.health) as client:
        client.send(request_bytes("GET", "/readiness", host="127.0.0.1"))
        _read(client)


def pipelines(sidecar: Sidecar, dice: random.Random) -> None:
    """Thousands of requests in one go, and away."""
    with RawClient(sidecar.port) as client:
        client.send(_request(dice, "hangs", CHAT) + b"GET /x HTTP/1.1\r\nHost: h\r\n\r\n" * 2000)
        time.sleep(0.2)
        client.reset()


def _held(body: bytes, size: int) -> bytes:
    """A JSON request whose body comes in chunks of `size`."""
    head = request_bytes("POST", "/v1/chat/completions", headers=(JSON, CHUNKED, b"X-Play: whole"))
    pieces = (body[at : at + size] for at in range(0, len(body), size))
    return head + b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"


def odd_bodies(sidecar: Sidecar, dice: random.Random) -> None:
    """JSON that costs more than it looks."""
    bodies = (
        b'{"model":"m","messages":[1' + b",{}" * 150_000 + b"]}",
        b'{"model":"m","messages":[' + b"1," * 300_000 + b"1]}",
        b'{"model":"m","messages":[{"role":"user","content":"' + b"\\u00e9" * 80_000 + b'\\ud83d"}]}',
        b'{"model":"m","x":' + b"[" * 5000 + b"]" * 5000 + b"}",
        b'{"model":' + b"9" * 500_000 + b"}",
        b'{"model":"m","messages":[' + b'{"role":"user","content":""},' * 40_000 + b"{}]}",
    )
    with RawClient(sidecar.port) as client:
        client.send(_held(dice.choice(bodies), 65_536))
        _read(client)


def packed(sidecar: Sidecar, dice: random.Random) -> None:
    """A compressed body: of a request, of next to nothing, or of nothing that was compressed."""
    asked = json.dumps(CHAT.request).encode()
    body = dice.choice([gzip.compress(asked), PACKED_BLANKS, asked])
    head = (JSON, b"Content-Encoding: gzip", b"X-Play: whole")
    with RawClient(sidecar.port) as client:
        client.send(request_bytes("POST", CHAT.path, headers=head, body=body))
        _read(client)


def _upload(dice: random.Random, play: str) -> bytes:
    """Some MiB of no JSON, which stream through."""
    kind = dice.choice([b"multipart/form-data; boundary=x", b"application/octet-stream"])
    head = (b"Content-Type: " + kind, b"X-Play: " + play.encode(), b"Authorization: Bearer " + SECRET)
    return request_bytes("POST", "/v1/files", headers=head, body=SECRET * dice.randint(1000, 400_000))


def uploads(sidecar: Sidecar, dice: random.Random) -> None:
    """A file, to a provider that takes it, takes its time, or takes none of it; some ask first."""
    data = _upload(dice, dice.choice(["whole", "takes-slowly", "early"]))
    head, _, body = data.partition(b"\r\n\r\n")
    with RawClient(sidecar.port) as client:
        if dice.random() < 0.3:
            client.send(head + b"\r\nExpect: 100-continue\r\n\r\n")
            if client.read_answer("POST", interim=True).status == 100:
                client.send(body)
                _read(client)
        else:
            client.send(data)
            _read(client)


def stands_still(sidecar: Sidecar, dice: random.Random) -> None:
    """A client that does nothing for seconds and then goes on: in its head, its body, the answer, or between two."""
    request = _request(dice, dice.choice(["stream", "large", "whole"]), CHAT, streamed=True)
    head = request.index(b"\r\n\r\n")
    at = dice.choice([1, head // 2, head + 4, head + 10, len(request)])
    with RawClient(sidecar.port) as client:
        client.send(request[:at])
        time.sleep(dice.uniform(1, 5))
        client.send(request[at:])
        _read(client)
        time.sleep(dice.uniform(0, 4))
        client.send(request)
        _read(client)


def tiny_chunks(sidecar: Sidecar, dice: random.Random) -> None:
    """A body that comes by the byte."""
    body = json.dumps({"model": "m", "messages": ["x" * dice.randint(1000, 200_000)]}).encode()
    with RawClient(sidecar.port) as client:
        client.send(_held(body, dice.randint(1, 3)))
        _read(client)


def dribbles(sidecar: Sidecar, dice: random.Random) -> None:
    """A body that comes by the byte, slowly, and never whole."""
    with RawClient(sidecar.port) as client:
        client.send(request_bytes("POST", "/v1/chat/completions", headers=(JSON, b"Content-Length: 900")))
        for _ in range(dice.randint(5, 20)):
            client.send(b" ")
            time.sleep(0.3)


def slow_reader(sidecar: Sidecar, dice: random.Random) -> None:
    """A client that takes next to nothing of a large answer."""
    with RawClient(sidecar.port, receive_buffer=4096) as client:
        client.send(_request(dice, "large", CHAT))
        for _ in range(dice.randint(5, 15)):
            client.read_some()
            time.sleep(0.2)


PEERS: tuple[tuple[int, Peer], ...] = (
    (30, whole),
    (20, streamed),
    (6, at_once),
    (6, talks),
    (24, broken_provider),
    (8, leaves),
    (4, no_upstream),
    (8, malformed),
    (3, odd_heads),
    (2, half_a_head),
    (4, admin),
    (2, looks),
    (1, pipelines),
    (2, odd_bodies),
    (2, packed),
    (2, uploads),
    (2, stands_still),
    (2, tiny_chunks),
    (2, dribbles),
    (2, slow_reader),
)
"""How often, and who."""


def play(sidecar: Sidecar, seed: int, over: threading.Event, played: Counter[str]) -> None:
    """One place of the crowd: first its share of all, so that everybody is there, then peer after peer."""
    dice = random.Random(seed)
    weights, peers = zip(*PEERS, strict=True)
    first = list(peers[seed::CROWD])
    while not over.is_set():
        peer = first.pop() if first else dice.choices(peers, weights)[0]
        with suppress(OSError):
            peer(sidecar, dice)
        played[peer.__name__] += 1
        over.wait(dice.random() * 0.2)


def main() -> None:
    """Plays until standard input ends."""
    sidecar = Sidecar(*map(int, sys.argv[1:]))
    over = threading.Event()
    played: list[Counter[str]] = [Counter() for _ in range(CROWD)]
    crowd = [threading.Thread(target=play, args=(sidecar, seed, over, played[seed])) for seed in range(CROWD)]
    for one in crowd:
        one.start()
    sys.stdin.read()
    over.set()
    for one in crowd:
        one.join()
    json.dump(sum(played, Counter()), sys.stdout)


if __name__ == "__main__":
    main()
