"""Spans to OTLP bytes: the official encoding, behind one class.

Called by the worker of the traces, in its thread.
"""

from collections.abc import Sequence

from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.trace import ReadableSpan


class SpanEncoder:
    """Encodes batches of spans."""

    def encode(self, spans: Sequence[ReadableSpan]) -> bytes:
        """An `ExportTraceServiceRequest`."""
        return bytes(encode_spans(spans).SerializeToString())
