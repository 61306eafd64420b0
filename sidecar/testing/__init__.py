"""What tests of the sidecar, and of what is built on it, need: real servers, real bytes, real exports.

Owns no behaviour of the product and replaces none of it: the sidecar runs as a process of its own
(`RunningSidecar`) between a scripted provider (`ScriptedUpstream`) and a collector that decodes what is
exported (`OtlpSink`); `RawClient` sends exact bytes. The core is tested on a `FixedClock`.

    with OtlpSink() as sink, ScriptedUpstream() as upstream:
        with RunningSidecar(upstream=upstream.url, sink=sink) as sidecar:
            upstream.answer(sse([chat_chunk("Hi"), chat_chunk(finish_reason="stop")]))
            said = exchange(sidecar.port, request_bytes("POST", "/v1/chat/completions", body=b"{}"))
            span = sink.span(kind="SERVER")
"""

from sidecar.testing.client import RawClient, chat_request, exchange, request_bytes
from sidecar.testing.clock import FixedClock
from sidecar.testing.compare import Change, changes, expect_span, points
from sidecar.testing.messages import Message, MessageReader
from sidecar.testing.otlp import Event, Exemplar, Link, LogLine, Point, Span
from sidecar.testing.player import Connection, Received
from sidecar.testing.process import RunningSidecar, free_port
from sidecar.testing.sink import Call, OtlpSink
from sidecar.testing.sink_servers import SinkAnswer
from sidecar.testing.steps import (
    Bytes,
    Chunk,
    Echo,
    End,
    EndSide,
    Flood,
    Garbage,
    Gate,
    Header,
    HoldReading,
    Informational,
    LastChunk,
    Pause,
    ReadBody,
    Reset,
    ResumeReading,
    Script,
    Status,
    Step,
    Wait,
    answer,
    chat_chunk,
    chat_completion,
    json_answer,
    sse,
    sse_event,
    sse_head,
)
from sidecar.testing.tls import Certificate, self_signed
from sidecar.testing.upstream import ScriptedUpstream

__all__ = [
    "Bytes",
    "Call",
    "Certificate",
    "Change",
    "Chunk",
    "Connection",
    "Echo",
    "End",
    "EndSide",
    "Event",
    "Exemplar",
    "FixedClock",
    "Flood",
    "Garbage",
    "Gate",
    "Header",
    "HoldReading",
    "Informational",
    "LastChunk",
    "Link",
    "LogLine",
    "Message",
    "MessageReader",
    "OtlpSink",
    "Pause",
    "Point",
    "RawClient",
    "ReadBody",
    "Received",
    "Reset",
    "ResumeReading",
    "RunningSidecar",
    "Script",
    "ScriptedUpstream",
    "SinkAnswer",
    "Span",
    "Status",
    "Step",
    "Wait",
    "answer",
    "changes",
    "chat_chunk",
    "chat_completion",
    "chat_request",
    "exchange",
    "expect_span",
    "free_port",
    "json_answer",
    "points",
    "request_bytes",
    "self_signed",
    "sse",
    "sse_event",
    "sse_head",
]
