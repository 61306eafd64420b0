"""A bystander of the soak: an app and its provider, alone with each other, who measure how long others make them wait.

A process of its own (`python -m tests.soak.bystander`): it prints its provider's port, is told the sidecar's and its process
id, asks every 20 ms until its standard input ends, and then prints (JSON) what each answer took (seconds): by the wall, and of
the sidecar's CPU, which says what others made it wait for on a machine where others are busy too; and the answers that
were not its provider's.
"""

import json
import socket
import sys
import threading
import time

PAUSE = 0.02
"""Seconds between an answer and the next request."""

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"


def provide(listener: socket.socket) -> None:
    """A provider of fixed bytes, one connection after another."""
    while True:
        connection, _ = listener.accept()
        with connection:
            rest = b""
            while data := connection.recv(65536):
                rest += data
                while b"\r\n\r\n" in rest:
                    _, _, rest = rest.partition(b"\r\n\r\n")
                    connection.sendall(ANSWER)


Times = list[tuple[float, float]]


def ask(port: int, pid: int, over: threading.Event, times: Times) -> str:
    """Adds the time of each call, by the wall and by the sidecar's CPU clock; gives what it was told at last in place of an answer."""
    cpu_clock = (~pid << 3) | 2  # clock_getcpuclockid(3) of another process
    with socket.create_connection(("127.0.0.1", port)) as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        while not over.wait(PAUSE):
            began, spent = time.perf_counter(), time.clock_gettime(cpu_clock)
            client.sendall(b"GET /bystander/x HTTP/1.1\r\nHost: h\r\n\r\n")
            said = b""
            while not said.endswith(b"\r\n\r\n{}"):
                data = client.recv(65536)
                if not data:
                    return repr(said)
                said += data
            times.append((time.perf_counter() - began, time.clock_gettime(cpu_clock) - spent))
    return ""


def main() -> None:
    """Measures until standard input ends."""
    listener = socket.create_server(("127.0.0.1", 0))
    threading.Thread(target=provide, args=(listener,), daemon=True).start()
    print(listener.getsockname()[1], flush=True)  # noqa: T201 - what its parent reads
    port, pid = map(int, sys.stdin.readline().split())
    over = threading.Event()

    def wait() -> None:
        sys.stdin.read()
        over.set()

    threading.Thread(target=wait, daemon=True).start()
    times: Times = []
    odd: list[str] = []
    while not over.is_set():
        odd += filter(None, [ask(port, pid, over, times)])
    json.dump((times, odd), sys.stdout)


if __name__ == "__main__":
    main()
