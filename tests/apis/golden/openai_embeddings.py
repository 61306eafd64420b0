"""OpenAI's embeddings: a call whole and streamed, and what it tells."""

from tests.apis.example import OPENAI_ERROR, Example, told

EMBEDDINGS = Example(
    name="openai embeddings",
    path="/v1/embeddings",
    route="/v1/embeddings",
    request={"model": "gpt-4o", "input": "Hi", "dimensions": 2},
    answer={
        "object": "list",
        "data": [{"object": "embedding", "index": 0, "embedding": [0.1, 0.2]}],
        "model": "embed-3",
        "usage": {"prompt_tokens": 5, "total_tokens": 5},
    },
    facts=told(None, "embed-3", input_tokens=5),
    operation="embeddings",
    provider="openai",
    failure=OPENAI_ERROR,
    word="server_error",
    turn=False,
    asked={"gen_ai.embeddings.dimension.count": 2},
)

EXAMPLES = (EMBEDDINGS,)
