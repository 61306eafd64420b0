"""OpenAI's responses: a call whole and streamed, and what it tells."""

from tests.apis.example import TIER, TOKENS, Example, Stream, told, typed


def _response(status: str, **more: object) -> dict[str, object]:
    head = {"id": "resp_1", "object": "response", "model": "gpt-5", "status": status}
    return {**head, "service_tier": "auto" if status == "in_progress" else "default", **more}


RESPONSES_USAGE = {"input_tokens": 5, "output_tokens": 7, "total_tokens": 12}

RESPONSES = Example(
    name="openai responses",
    path="/v1/responses",
    route="/v1/responses",
    request={"model": "gpt-4o", "input": "Hi", "max_output_tokens": 9},
    answer=_response("completed", output=[], usage=RESPONSES_USAGE, error=None),
    facts=told("resp_1", "gpt-5", "completed") | TOKENS | TIER,
    operation="chat",
    provider="openai",
    failure=_response("failed", error={"code": "server_error", "message": "no"}),
    word="server_error",
    asked={"sidecar.request.messages": 1, "gen_ai.request.max_tokens": 9},
    failed=told("resp_1", "gpt-5") | TIER,
    stream=Stream(
        path="/v1/responses",
        route="/v1/responses",
        request={"stream": True},
        first=typed("response.created", response=_response("in_progress"))
        + typed("response.output_text.delta", delta="Hel"),
        rest=typed("response.output_text.delta", delta="lo"),
        terminator=typed("response.completed", response=_response("completed", usage=RESPONSES_USAGE)),
        events=(2, 1, 1),
        error=typed("error", code="server_error", message="no"),
        early=told("resp_1", "gpt-5") | {"openai.response.service_tier": "auto"},
        late=told("resp_1", "gpt-5", "completed") | TOKENS | TIER,
    ),
)

EXAMPLES = (RESPONSES,)
