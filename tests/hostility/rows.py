"""What a row of the corpus says: the bytes of an attack or an oddity, and what must come of them.

The rows themselves are in `requests_*.py` and `answers_*.py`; the tests beside them play every row whole, byte by
byte, and with bytes behind it. Their ideas come from public lists; each row names one in its `source`. Facts were
taken from them, no text and no files:

- `RFC 9110`, `RFC 9112`: HTTP Semantics, and HTTP/1.1, June 2022, by section.
- `Linhart 2005`: Linhart, Klein, Heled, Orrin, "HTTP Request Smuggling", Watchfire.
- `Klein 2020`: Amit Klein, "HTTP Request Smuggling in 2020", Black Hat USA.
- `Kettle 2019`, `2022`, `2025`: James Kettle, PortSwigger, "HTTP Desync Attacks: Request Smuggling Reborn",
  "Browser-Powered Desync Attacks", "HTTP/1.1 Must Die".
- `TERM.EXT 2025`: Jeppe Bonde Weikop, "Funky chunks: abusing ambiguous chunk line terminators".
- `T-Reqs 2021`: Jabiyev and others, "T-Reqs: HTTP Request Smuggling with Differential Fuzzing", ACM CCS.
- `HTTP Garden`: Kallus and others, "The HTTP Garden", the bugs listed with it (github.com/narfindustries/http-garden).
- `Http11Probe`: the catalogue of cases of github.com/MDA2AV/Http11Probe.
- `h11`, `llhttp`: the tests and the security notes of these parsers.
- `h2c smuggling`: Jake Miller, Bishop Fox, 2020. `websocket smuggling`: Mikhail Egorov, 2019.
- `hop-by-hop`: Nathan Davison, "Abusing HTTP hop-by-hop request headers", 2019.
- `Slowloris`, `R.U.D.Y.`: Robert Hansen, 2009; Raviv Raz, 2010.
- `CVE-...`: the public record of that number.
- `wire.md`: what `docs/wire.md` promises.
"""

import re
from dataclasses import dataclass

SOURCES = re.compile(
    r"(RFC 911[02], \d|Linhart 2005|Klein 2020|Kettle 20(19|22|25)|TERM\.EXT 2025|T-Reqs 2021|HTTP Garden|Http11Probe|"
    r"h11|llhttp|h2c smuggling|websocket smuggling|hop-by-hop|Slowloris|R\.U\.D\.Y\.|CVE-\d{4}-\d{4,5}|wire\.md)"
)
"""How a row's source begins."""

INNER = b"GET /smuggled HTTP/1.1\r\nHost: h\r\n\r\n"
"""What a smuggler would have an upstream read as a request of its own."""

CHUNKED = b"Transfer-Encoding: chunked"


@dataclass(frozen=True, slots=True)
class Row:
    """Bytes of a client. `passed` are the requests that reach the upstream, whole, with one chunk at most and
    `Host: upstream`; nothing else may reach it.

    `said` are the statuses of the answers, in order; after the last the connection is closed if `closes`. `part` is
    the most of a last, unfinished request's payload that may have gone on before its body turned out to be broken.
    `waits`: the sidecar still waits for the request's end when all has been sent, and the client gives up.
    """

    name: str
    source: str
    data: bytes
    said: tuple[int, ...] = (400,)
    passed: tuple[bytes, ...] = ()
    part: bytes | None = None
    closes: bool = True
    waits: bool = False

    @property
    def outcomes(self) -> list[str]:
        """What becomes of its requests, unless a part of one has gone on."""
        ended = ["completed" if status < 400 else "refused" for status in self.said if status >= 200]
        return [*ended, "client_left"] if self.waits else ended


def request(
    *lines: bytes,
    start: bytes = b"POST /x HTTP/1.1",
    host: bytes = b"Host: h",
    body: bytes = b"",
) -> bytes:
    """A request: its start line, `Host`, the lines given, and whatever stands for its body."""
    head = b"".join(line + b"\r\n" for line in (start, *([host] if host else []), *lines))
    return head + b"\r\n" + body


def sent(*lines: bytes, start: bytes = b"POST /x HTTP/1.1", body: bytes = b"") -> bytes:
    """The same as the upstream gets it."""
    return request(*lines, start=start, host=b"Host: upstream", body=body)


def refused(name: str, source: str, data: bytes, status: int = 400) -> Row:
    """Answered with an error, closed, and nothing of it goes on."""
    return Row(name, source, data, said=(status,))


def passes(name: str, source: str, data: bytes, *passed: bytes, closes: bool = False) -> Row:
    """Answered by the upstream, which got exactly `passed`."""
    return Row(name, source, data, said=(200,) * len(passed), passed=passed, closes=closes)
