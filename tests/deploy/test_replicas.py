"""One conversation over two pods, as docs/kubernetes.md tells it: each sidecar tells its part, the session id joins them."""

from sidecar.testing import (
    Gate,
    OtlpSink,
    RawClient,
    RunningSidecar,
    ScriptedUpstream,
    Wait,
    chat_chunk,
    chat_request,
    exchange,
    sse,
    sse_head,
)

SESSION = "over-two-pods"
OWN = (f"X-Sidecar-Session-Id: {SESSION}".encode(),)


def pod(name: str, upstream: ScriptedUpstream, sink: OtlpSink) -> RunningSidecar:
    """The sidecar of a pod, which names itself as the base's manifest lets it."""
    resource = f"service.instance.id=ns.{name}.sidecar,k8s.pod.name={name}"
    return RunningSidecar(upstream=upstream.url, sink=sink, environ={"OTEL_RESOURCE_ATTRIBUTES": resource})


def test_two_pods_tell_their_parts(upstream: ScriptedUpstream) -> None:
    """Two turns at once, one in each pod: neither sees an overlap, both count from 1, and the store finds both."""
    gate = Gate()
    upstream.answer(sse_head(), Wait(gate))
    upstream.answer(sse([chat_chunk("Hi"), chat_chunk(finish_reason="stop")]))
    with OtlpSink() as sink:
        with (
            pod("one", upstream, sink) as one,
            pod("two", upstream, sink) as two,
            RawClient(one.port) as client,
        ):
            client.send(chat_request(stream=True, headers=OWN))
            upstream.request()
            assert exchange(two.port, chat_request(stream=True, headers=OWN)).status == 200
            assert one.stats()["requests"]["in_flight"] == 1
            client.close()
            gate.open()
            one.wait_until(lambda: one.stats()["requests"]["settled"] == 1)
        found = [span for span in sink.spans if span.attributes.get("session.id") == SESSION]
    requests = [span for span in found if span.kind == "SERVER"]
    assert sorted(str(span.resource["k8s.pod.name"]) for span in requests) == ["one", "two"]
    assert [span.attributes["sidecar.request.sequence"] for span in requests] == [1, 1]
    assert [span.attributes["sidecar.request.overlaps"] for span in requests] == [0, 0]
    assert [link for span in requests for link in span.links] == []
    sessions = [span for span in found if span.name == "session"]
    assert sorted(str(span.resource["service.instance.id"]) for span in sessions) == [
        "ns.one.sidecar",
        "ns.two.sidecar",
    ]
