"""The whole demo, started as a person starts it, with the real sidecar and a collector behind it."""

import os
import re
import signal
import socket
import subprocess
import sys
import urllib.request
from contextlib import suppress
from functools import partial
from time import monotonic

import psutil
from openai import OpenAI

from sidecar.testing import OtlpSink
from tests.terminals import ALL, OnTerminal

COMMAND = [sys.executable, "-m", "sidecar", "demo"]
LIMIT = 240.0


def environ(**more: str) -> dict[str, str]:
    """The environment, without what would change the demo."""
    changing = ("SIDECAR_", "OTEL_", "COLUMNS", "LINES")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(changing)}
    return {**kept, "PYTHONUNBUFFERED": "1", **more}


def lacks(demo: OnTerminal, text: str) -> bool:
    """True until a text has been seen."""
    return text not in demo.seen


def one_word(app: OpenAI) -> None:
    """A call that is answered at once."""
    app.chat.completions.create(
        model="demo-small",
        messages=[{"role": "user", "content": "hi"}],
        extra_headers={"x-demo-plan": "words=1, first=0"},
    )


def test_one_round() -> None:
    """One picture on a pipe, plain text, every kind of story in it; every span of it reaches the collector."""
    with OtlpSink() as sink:
        done = subprocess.run(
            [*COMMAND, "--once", "--listen", "127.0.0.1:0"],
            env=environ(
                **sink.environ() | {"OTEL_METRIC_EXPORT_INTERVAL": "60000"},  # spans are looked at
                SIDECAR_SESSION_IDLE="60s",  # none ends and returns on a slow machine
            ),
            capture_output=True,
            text=True,
            timeout=LIMIT,
            check=False,
        )
        spans = sink.spans
    picture = done.stdout
    assert (done.returncode, done.stderr) == (0, "")
    assert not re.search(r"[\x00-\x09\x0b-\x1f]", picture)
    assert all(len(line) <= 80 for line in picture.splitlines())
    lanes = re.findall(
        r"^ ([a-z]+-[a-z]+-1|notebook-1|impatient-1|  └ explorer|  └ side:title)", picture, re.MULTILINE
    )
    assert len(lanes) == 9
    assert re.search(r"requests      28   ✓ 25 completed", picture)
    assert picture.startswith(" sidecar demo · the picture of a round follows")
    assert "◁ 1 client left" in picture
    assert "! 1 error in stream" in picture
    assert "✗ 1 upstream rejected   ═ 2 raced" in picture
    turns = re.search(
        r"turns         3 overlaps   3 out of order   3 at once   ([\d.]+) s wait avoided",
        picture,
    )
    assert turns, picture
    assert float(turns[1]) > 10
    assert re.search(r"═[✓◁]", picture), picture  # the two turns of the walk are drawn as a race
    assert re.search(r"28 started = 28 settled \+ 0 in flight   8 sessions, \d live", picture)
    assert re.search(
        r"in a browser  http://127\.0\.0\.1:\d+/\n"
        r" your own app  export OPENAI_BASE_URL=http://127\.0\.0\.1:\d+/v1\n$",
        picture,
    )
    assert sum(span.kind == "SERVER" for span in spans) == 28
    assert sum(span.name == "session" for span in spans) == 8
    assert sum(span.name == "conversation" for span in spans) == 10
    servers = [span for span in spans if span.kind == "SERVER"]
    told = [
        (span.attributes.get("sidecar.turn.relation"), span.attributes["sidecar.session.source"])
        for span in servers
    ]
    assert told.count(("races", "history")) == 1
    assert told.count(("continues", "history")) == 2
    lanes = [span.attributes.get("sidecar.conversation.id") for span in servers]
    assert lanes.count("side:title") == 1


def test_on_a_terminal_until_ctrl_c() -> None:
    """Redrawn in place; another app gets its lane; Ctrl-C ends all of it, cleanly, and leaves the picture."""
    command = [*COMMAND, "--listen", "127.0.0.1:0"]
    demo = OnTerminal(command, streams=ALL, environ=environ(TERM="xterm"), limit=LIMIT)
    page = demo.read_until(r"in a browser[^h]+(http://[\d.:]+/)").group(1)
    url = demo.read_until(r"OPENAI_BASE_URL=(http://\S+?/v1)").group(1)
    assert "\x1b[?1049h" in demo.seen
    with urllib.request.urlopen(page) as live:
        assert "<title>" in live.read().decode()
    for headers, lane in (({"X-Sidecar-Session-Id": "my-own-app"}, "my-own-app"), ({}, "(no session named)")):
        with OpenAI(api_key="x", base_url=url, default_headers=headers) as app:
            # It goes on calling: a call that ends with a round has no place in the next one's picture.
            demo.read_while(partial(lacks, demo, lane), partial(one_word, app))
    os.kill(demo.process.pid, signal.SIGINT)
    assert demo.end() == 0
    demo.close()
    final = demo.seen.rpartition("\x1b[?1049l")[2]
    assert "my-own-app" in final
    assert "OPENAI_BASE_URL" in final
    assert re.search(r"sidecar: \d+ requests: \d+ .*; \d+ sessions; telemetry off\r\n$", final)
    assert "Traceback" not in demo.seen
    host, _, port = url.removeprefix("http://").removesuffix("/v1").partition(":")
    with socket.socket() as probe:
        assert probe.connect_ex((host, int(port))) != 0


def test_told_to_end_before_it_has_begun() -> None:
    """SIGTERM, at whatever moment, ends it with 0 and no traceback."""
    with subprocess.Popen(
        [*COMMAND, "--listen", "127.0.0.1:0"],
        env=environ(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as demo:
        this, deadline = psutil.Process(demo.pid), monotonic() + LIMIT
        while not this.children() and monotonic() < deadline:
            with suppress(subprocess.TimeoutExpired):
                demo.wait(0.02)
        demo.terminate()
        output, _ = demo.communicate(timeout=LIMIT)
    assert (demo.returncode, output) == (0, "")


def test_a_port_that_is_taken() -> None:
    """The sidecar's own clear line, and exit code 1."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        done = subprocess.run(
            [*COMMAND, "--once", "--listen", f"127.0.0.1:{listener.getsockname()[1]}"],
            env=environ(),
            capture_output=True,
            text=True,
            timeout=LIMIT,
            check=False,
        )
    assert (done.returncode, done.stdout) == (1, "")
    assert "in use" in done.stderr
    assert "Traceback" not in done.stderr


def test_bad_settings() -> None:
    """All of them at once, and exit code 2."""
    done = subprocess.run(
        [*COMMAND, "--once", "--listen", "nowhere"],
        env=environ(SIDECAR_SEMCONV="old"),
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=False,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert "SIDECAR_LISTEN=nowhere" in done.stderr
    assert "SIDECAR_SEMCONV=old" in done.stderr
