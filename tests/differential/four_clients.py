"""The four public clients, each asked for some things in turn, as an app would use it. Three are packages; curl may be missing.

Owns what a client makes of an answer. A client that fails gives None: which words it fails with is its own affair.
"""

import asyncio
import re
import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import httpx2
import openai
import requests
from openai._models import FinalRequestOptions

TIMEOUT = 20.0
"""Seconds for a whole call; one that takes longer has failed."""

PIECE = 8192
"""Bytes of a piece of a body whose length is not told."""


@dataclass(frozen=True, slots=True)
class Ask:
    """One call. `chunked`: the length of its body is not told; `expects`: it sends `Expect: 100-continue`."""

    method: str = "GET"
    body: bytes = b""
    chunked: bool = False
    expects: bool = False

    @property
    def pieces(self) -> Iterator[bytes]:
        """The body, bit by bit."""
        return (self.body[at : at + PIECE] for at in range(0, len(self.body), PIECE))

    @property
    def fields(self) -> dict[str, str]:
        """What an app adds to the head."""
        return {"Expect": "100-continue"} if self.expects else {}


@dataclass(frozen=True, slots=True)
class Said:
    """An answer as a client has it: the fields in small letters, those of one name together, the body unpacked."""

    status: int
    fields: tuple[tuple[str, str], ...]
    body: bytes


def said(status: int, fields: list[tuple[str, str]], body: bytes) -> Said:
    """The same for all: how a client groups its fields is not the answer's doing."""
    return Said(status, tuple(sorted((name.strip().lower(), value.strip()) for name, value in fields)), body)


Client = Callable[[str, Iterable[Ask]], list[Said | None]]
"""Asks for a URL, once for each, keeping its connection where it can; None for what failed.

It takes each from the iterator when those before are over (curl takes all at once).
"""


def by_openai(url: str, asks: Iterable[Ask]) -> list[Said | None]:
    """The openai package, which stands on httpx and h11."""
    base, _, path = url.partition("/x")
    plain = httpx2.Client(verify=False, trust_env=False, follow_redirects=True)
    with openai.OpenAI(
        base_url=base, api_key="sk-x", max_retries=0, timeout=TIMEOUT, http_client=plain
    ) as client:

        def call(ask: Ask) -> Said | None:
            options = FinalRequestOptions.construct(
                method=ask.method.lower(),
                url=f"/x{path}",
                content=ask.pieces if ask.chunked else ask.body,
                headers=ask.fields,
            )
            try:
                response = client.request(httpx2.Response, options)
            except openai.APIStatusError as error:
                response = error.response
            except (openai.OpenAIError, httpx2.HTTPError, httpx2.InvalidURL):
                return None
            return said(response.status_code, response.headers.multi_items(), response.content)

        return [call(ask) for ask in asks]


def by_requests(url: str, asks: Iterable[Ask]) -> list[Said | None]:
    """Requests, which stands on urllib3 and http.client."""
    with requests.Session() as session:
        session.trust_env = False

        def call(ask: Ask) -> Said | None:
            body = ask.pieces if ask.chunked else ask.body
            try:
                response = session.request(ask.method, url, data=body, headers=ask.fields, timeout=TIMEOUT)
            except (requests.RequestException, ValueError):
                return None
            return said(response.status_code, list(response.raw.headers.items()), response.content)

        return [call(ask) for ask in asks]


async def _pieces(ask: Ask) -> AsyncIterator[bytes]:
    for piece in ask.pieces:
        yield piece


async def _by_aiohttp(url: str, asks: Iterator[Ask]) -> list[Said | None]:
    async def call(session: aiohttp.ClientSession, ask: Ask) -> Said | None:
        body = _pieces(ask) if ask.chunked else ask.body or None
        try:
            async with session.request(ask.method, url, data=body, expect100=ask.expects) as response:
                content = await response.read()
                return said(response.status, [(n, v) for n, v in response.headers.items()], content)
        except (aiohttp.ClientError, ValueError):
            return None

    all_said: list[Said | None] = []
    in_vain = False
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(TIMEOUT)) as session:
        # The event loop runs while the next one is waited for: what happens to a kept connection is seen.
        while (ask := await asyncio.to_thread(next, asks, None)) is not None:
            try:
                all_said.append(None if in_vain else await call(session, ask))
            except TimeoutError:  # it would wait as long for each of the others
                in_vain = True
                all_said.append(None)
    return all_said


def by_aiohttp(url: str, asks: Iterable[Ask]) -> list[Said | None]:
    """The client of aiohttp, which stands on llhttp."""
    return asyncio.run(_by_aiohttp(url, iter(asks)))


def by_curl(url: str, asks: Iterable[Ask]) -> list[Said | None]:
    """The program curl: a file for each head (and trailers) and each body; the exit codes on its output."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        command = ["curl"]
        asked = list(asks)
        for number, ask in enumerate(asked):
            (folder / f"{number}.up").write_bytes(ask.body)
            command += (*(("--next",) if number else ()), *_curl_options(ask, folder / str(number)), url)
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False)
        codes = done.stdout.split()
        return [
            _curl_said(ask, folder / str(number)) if codes[number : number + 1] == [b"0"] else None
            for number, ask in enumerate(asked)
        ]


def _curl_options(ask: Ask, files: Path) -> list[str]:
    how = ["-I"] if ask.method == "HEAD" else ["-X", ask.method]
    if ask.body and ask.method != "HEAD":
        how += ["--data-binary", f"@{files}.up"]
    fields = ["Expect: 100-continue" if ask.expects else "Expect:"]
    if ask.chunked:
        fields.append("Transfer-Encoding: chunked")
    options = ["-q", "-s", "-g", "--http1.1", "--compressed", "-L", "-m", str(TIMEOUT), "--noproxy", "*"]
    told = ["-D", f"{files}.head", "-o", f"{files}.body", "-w", "%{exitcode}\\n"]
    return [*options, *told, *how, *(part for field in fields for part in ("-H", field))]


def _curl_said(ask: Ask, files: Path) -> Said | None:
    last = re.split(rb"(?m)^(?=HTTP/)", Path(f"{files}.head").read_bytes())[-1]
    first, *lines = re.split(rb"\r?\n\r?\n", last)[0].splitlines()
    status = first.split()[1]
    parted = [line.partition(b":") for line in _unfolded(lines)]
    fields = [(name.decode("latin-1"), value.decode("latin-1")) for name, _, value in parted]
    body = Path(f"{files}.body")
    content = body.read_bytes() if body.exists() and ask.method != "HEAD" else b""
    return said(int(status), fields, content) if status.isdigit() else None


def _unfolded(lines: list[bytes]) -> list[bytes]:
    out: list[bytes] = []
    for line in lines:
        if line[:1] in (b" ", b"\t") and out:
            out[-1] += b" " + line.strip()
        else:
            out.append(line)
    return out


CLIENTS: dict[str, Client] = {
    "openai": by_openai,
    "requests": by_requests,
    "aiohttp": by_aiohttp,
    **({"curl": by_curl} if shutil.which("curl") else {}),
}
"""Those that are here."""
