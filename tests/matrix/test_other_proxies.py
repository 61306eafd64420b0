"""The matrix through other proxies: nginx, as a second opinion on what a proxy owes, and one that is wrong.

The wrong one shows that the matrix sees it. Bytes alone are checked here.
"""

import os
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import pytest

from sidecar.testing import MessageReader, RawClient, ScriptedUpstream, free_port
from tests.matrix.cells import ANY_PROXY, CELLS, WHOLE, Cell
from tests.matrix.play import play

NGINX = shutil.which("nginx", path=os.environ.get("PATH", "") + ":/usr/sbin")

CONFIGURATION = """
daemon off; master_process off; pid {folder}/pid; error_log stderr crit;
events {{ worker_connections 64; }}
http {{
  access_log off;
  client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/f; uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
  server {{
    listen 127.0.0.1:{port};
    location / {{
      proxy_pass http://127.0.0.1:{upstream};
      proxy_http_version 1.1; proxy_buffering off; proxy_set_header Connection "";
    }}
  }}
}}
"""


@pytest.fixture(scope="module")
def nginx(module_upstream: ScriptedUpstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The port of an nginx in front of the provider."""
    folder: Path = tmp_path_factory.mktemp("nginx")
    port = free_port()
    configuration = folder / "nginx.conf"
    configuration.write_text(
        CONFIGURATION.format(folder=folder, port=port, upstream=module_upstream.port), encoding="utf-8"
    )
    with subprocess.Popen((str(NGINX), "-p", str(folder), "-c", str(configuration))) as process:
        try:
            _wait_for(port, process)
            yield port
        finally:
            process.terminate()


def _wait_for(port: int, process: "subprocess.Popen[bytes]") -> None:
    while process.poll() is None:
        with suppress(ConnectionRefusedError), closing(RawClient(port)):
            return
    raise AssertionError("nginx ended at once")


@pytest.mark.skipif(NGINX is None, reason="nginx is not installed: apt-get install nginx")
@pytest.mark.parametrize("ending", sorted({cell.ending.name for cell in ANY_PROXY}))
def test_nginx(nginx: int, upstream: ScriptedUpstream, ending: str) -> None:
    """What the cells ask of bytes, nginx does as well: it is no more than a proxy owes."""
    for cell in ANY_PROXY:
        if cell.ending.name == ending:
            play(cell, nginx, upstream, cell.id, own_timers=False)


@contextmanager
def careless(upstream: int, forgets: int) -> Iterator[int]:
    """The port of a proxy for one request, which leaves out the last `forgets` bytes of the answer, and closes."""

    def serve(listener: socket.socket) -> None:
        client, _ = listener.accept()
        with client, socket.create_connection(("127.0.0.1", upstream)) as up:
            asked, said = MessageReader(), MessageReader("POST")
            for source, reader, target, less in ((client, asked, up, 0), (up, said, client, forgets)):
                whole = b""
                while not reader.message.complete and (piece := source.recv(65536)):
                    whole += piece
                    reader.feed(piece)
                target.sendall(whole[: len(whole) - less])

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, args=(listener,))
        thread.start()
        yield listener.getsockname()[1]
        thread.join()


SAMPLE = tuple(cell for cell in CELLS if cell.ending is WHOLE and cell.coding == "identity")


@pytest.mark.parametrize("cell", SAMPLE, ids=[cell.id for cell in SAMPLE])
def test_a_wrong_proxy_is_seen(cell: Cell, upstream: ScriptedUpstream) -> None:
    """One that forgets the last byte fails the cell that it passes when it forgets nothing."""
    with careless(upstream.port, forgets=0) as port:
        play(cell, port, upstream, cell.id, own_timers=False)
    with careless(upstream.port, forgets=1) as port, pytest.raises(AssertionError):
        play(cell, port, upstream, cell.id, own_timers=False)
