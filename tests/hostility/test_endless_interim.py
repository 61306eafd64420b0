"""Interim answers without end are no answer: the time for the first byte of one passes all the same."""

import socket
import threading

from sidecar.testing import OtlpSink, RunningSidecar, chat_request, exchange

FLOOD = b"HTTP/1.1 100\r\n\r\n" * 50_000


def flood(server: socket.socket) -> None:
    """Sends them for as long as somebody is there."""
    connection, _ = server.accept()
    with connection:
        connection.recv(65536)
        try:
            while True:
                connection.sendall(FLOOD)
        except OSError:
            return


def test_interim_answers_without_end(module_sink: OtlpSink) -> None:
    """Though some of them always wait to be read."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=flood, args=(server,))
        thread.start()
        with RunningSidecar(
            upstream=f"http://127.0.0.1:{server.getsockname()[1]}",
            sink=module_sink,
            settings={"FIRST_BYTE_TIMEOUT": "0.5s"},
        ) as sidecar:
            said = exchange(sidecar.port, chat_request(), timeout=20)
        thread.join(30)
    assert said.status == 504
