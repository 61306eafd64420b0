"""All metrics of a hundred models: more than a gRPC receiver takes as one message. All of it arrives, and is found."""

import json
from itertools import product

import pytest

from sidecar.telemetry.exporters import MESSAGE_BYTES
from sidecar.testing import (
    OtlpSink,
    Received,
    RunningSidecar,
    Script,
    ScriptedUpstream,
    chat_chunk,
    chat_completion,
    chat_request,
    exchange,
    json_answer,
    sse,
)
from tests.stack.backends import Stack
from tests.stack.programs import eventually

MODELS = [f"a-model-with-a-rather-long-name-{number}" for number in range(100)]
UPSTREAMS = ("a", "b", "c", "d")
TOO_MUCH = 4 << 20
"""Bytes that a gRPC receiver refuses by default."""


def settings(upstream: ScriptedUpstream) -> dict[str, str]:
    """One provider under several names, for as many series of each model; the names of both conventions."""
    return {"SEMCONV": "both", "UPSTREAMS": ",".join(f"{name}={upstream.url}" for name in UPSTREAMS)}


def script(request: Received) -> Script:
    """An answer by the model that was asked for, streamed or whole."""
    body = json.loads(request.body)
    model, usage = body["model"], {"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18}
    if not body.get("stream"):
        return json_answer(chat_completion(model=model, usage=(11, 7)))
    return sse([chat_chunk("a", model=model), chat_chunk(finish_reason="stop", model=model, usage=usage)])


def play(upstream: ScriptedUpstream, sidecar: RunningSidecar) -> None:
    """Each model of each upstream, once whole and once streamed."""
    upstream.answer_with(script)
    for model in MODELS:
        for name, stream in product(UPSTREAMS, (False, True)):
            asked = chat_request(
                path=f"/{name}/v1/chat/completions",
                model=model,
                stream=stream,
                headers=(b"X-Sidecar-Session-Id: models",),
            )
            assert exchange(sidecar.port, asked).status == 200


@pytest.mark.parametrize("way", ["Prometheus", "Collector by HTTP", "Collector by gRPC"])
def test_every_model_arrives(stack: Stack, way: str) -> None:
    """Nothing is refused; each model has its figures."""
    service = f"models-{way.lower().replace(' ', '-')}"
    environ = stack.environ(service)
    if way == "Prometheus":
        environ["OTEL_EXPORTER_OTLP_METRICS_ENDPOINT"] = f"{stack.prometheus.otlp}/v1/metrics"
    elif way == "Collector by gRPC":
        environ |= {"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc", "OTEL_EXPORTER_OTLP_ENDPOINT": stack.otlp_grpc}
    with (
        ScriptedUpstream() as upstream,
        RunningSidecar(upstream=upstream.url, settings=settings(upstream), environ=environ) as sidecar,
    ):
        play(upstream, sidecar)
        counted = (
            "sum by (gen_ai_request_model) "
            f'(gen_ai_client_operation_duration_seconds_count{{job="{service}",gen_ai_request_model!=""}})'
        )
        eventually(
            lambda: (
                stack.prometheus.by("gen_ai_request_model", counted)
                == dict.fromkeys(MODELS, 2 * len(UPSTREAMS))
            )
        )
        account = sidecar.stats()["telemetry"]["metrics"]
        assert account["created"] == account["exported"] + account["queued"]


def test_messages_are_bounded() -> None:
    """One export is more than 4 MiB, and no message is over the bound by more than its frame."""
    with (
        OtlpSink() as sink,
        ScriptedUpstream() as upstream,
        RunningSidecar(
            upstream=upstream.url,
            sink=sink,
            settings=settings(upstream),
            environ={"OTEL_METRIC_EXPORT_INTERVAL": "600000"},  # all exemplars leave with the last export
        ) as sidecar,
    ):
        play(upstream, sidecar)
        before = len(sink.calls)
        assert sidecar.stop() == 0
        sizes = [call.size for call in sink.calls[before:] if call.signal == "metrics"]
    assert max(sizes) <= MESSAGE_BYTES + 10_000
    assert sum(sizes) > TOO_MUCH
