"""The four public clients, each asked for one thing, as an app would use it. Three are packages; curl may be missing.

Owns what a client makes of an answer. A client that fails gives None: which words it fails with is its own affair.
"""

import asyncio
import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass

import aiohttp
import httpx2
import openai
import requests
from openai._models import FinalRequestOptions

TIMEOUT = 3.0
"""Seconds for a whole call; one that takes longer has failed."""


@dataclass(frozen=True, slots=True)
class Said:
    """An answer as a client has it: the fields in small letters, those of one name together, the body unpacked."""

    status: int
    fields: tuple[tuple[str, str], ...]
    body: bytes


def said(status: int, fields: list[tuple[str, str]], body: bytes) -> Said:
    """The same for all: how a client groups its fields is not the answer's doing."""
    return Said(status, tuple(sorted((name.strip().lower(), value.strip()) for name, value in fields)), body)


Client = Callable[[str, str, bytes], Said | None]
"""Asks for a URL, by method, with a body; None if it failed."""


def by_openai(url: str, method: str, body: bytes) -> Said | None:
    """The openai package, which stands on httpx and h11."""
    base, _, path = url.partition("/x")
    plain = httpx2.Client(verify=False, trust_env=False, follow_redirects=True)
    with openai.OpenAI(
        base_url=base, api_key="sk-x", max_retries=0, timeout=TIMEOUT, http_client=plain
    ) as client:
        try:
            options = FinalRequestOptions.construct(method=method.lower(), url=f"/x{path}", content=body)
            response = client.request(httpx2.Response, options)
        except openai.APIStatusError as error:
            response = error.response
        except (openai.OpenAIError, httpx2.HTTPError, httpx2.InvalidURL):
            return None
        return said(response.status_code, response.headers.multi_items(), response.content)


def by_requests(url: str, method: str, body: bytes) -> Said | None:
    """Requests, which stands on urllib3 and http.client."""
    with requests.Session() as session:
        session.trust_env = False
        try:
            response = session.request(method, url, data=body, timeout=TIMEOUT)
        except (requests.RequestException, ValueError):
            return None
        return said(response.status_code, list(response.raw.headers.items()), response.content)


async def _aiohttp(url: str, method: str, body: bytes) -> Said | None:
    timeout = aiohttp.ClientTimeout(TIMEOUT)
    async with aiohttp.ClientSession(timeout=timeout) as session:
        try:
            async with session.request(method, url, data=body or None) as response:
                content = await response.read()
                return said(response.status, [(n, v) for n, v in response.headers.items()], content)
        except (aiohttp.ClientError, TimeoutError, ValueError):
            return None


def by_aiohttp(url: str, method: str, body: bytes) -> Said | None:
    """The client of aiohttp, which stands on llhttp."""
    return asyncio.run(_aiohttp(url, method, body))


def by_curl(url: str, method: str, body: bytes) -> Said | None:
    """The program curl: heads and trailers on one stream, the body on the other."""
    how = ("-I",) if method == "HEAD" else ("-X", method, *(("--data-binary", "@-") if body else ()))
    options = ("-q", "-s", "-g", "--http1.1", "--compressed", "-L", "-m", str(TIMEOUT), "--noproxy", "*")
    done = subprocess.run(
        ("curl", *options, "-D", "/dev/stderr", "-o", "/dev/stdout", *how, "-H", "Expect:", url),
        input=body,
        capture_output=True,
        check=False,
    )
    if done.returncode:
        return None
    last = re.split(rb"(?m)^(?=HTTP/)", done.stderr)[-1]
    first, *lines = re.split(rb"\r?\n\r?\n", last)[0].splitlines()
    status = first.split()[1]
    parted = [line.partition(b":") for line in _unfolded(lines)]
    fields = [(name.decode("latin-1"), value.decode("latin-1")) for name, _, value in parted]
    return said(int(status), fields, b"" if method == "HEAD" else done.stdout) if status.isdigit() else None


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
