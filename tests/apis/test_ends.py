"""What the two ends of a large JSON object tell: exactly what the whole tells of them, or nothing."""

import json

import pytest

from sidecar import apis

MIDDLE = b"[%b]" % b",".join([b'{"embedding":[0.1,0.2],"index":0,"usage":{"prompt_tokens":99}}'] * 3000)


@pytest.mark.parametrize(
    "body,found",
    [
        (
            b'{"object":"list","data":%b,"model":"m","usage":{"prompt_tokens":7,"x":[{}]}}',
            {"object": "list", "model": "m", "usage": {"prompt_tokens": 7, "x": [{}]}},
        ),
        (
            b' {\n  "id" : "r,1\\"" ,"n":-1.5e3, "data": %b ,\n "usage": {"prompt_tokens" :7}\n}\n ',
            {"id": 'r,1"', "n": -1500.0, "usage": {"prompt_tokens": 7}},
        ),
        (b'{"model":"m","usage":{"prompt_tokens":7},"data":%b}', {"model": "m"}),
        (b'{"data":%b}', None),
        (b'{"data":%b,"usage":{"prompt_tokens":7}}x', None),
        (b'[{"data":%b,"usage":{"prompt_tokens":7}}]', None),
        (b'{"x":{"data":%b,"usage":{"prompt_tokens":7}}}', None),
        (b'{"x":[{"data":%b},{"a":1,"usage":{"prompt_tokens":7}}]}', None),
        (b'{"data":%b,"text":"and \\",\\"usage\\":{\\"prompt_tokens\\":7}}', None),
        (b'{"data":%b,"text":",\\"usage\\":{}","end":1}', {"text": ',"usage":{}', "end": 1}),
        (b'{"data":%b,"usage":{"prompt_tokens":7', None),
        (b"%b", None),
        (b'"' + b"x" * 200_000 + b'"', None),
    ],
)
def test_ends(body: bytes, found: object) -> None:
    """Members of the object itself, whole in one of its ends, and no others."""
    whole = body % MIDDLE if b"%b" in body else body
    ends = apis.ends_of(whole[: 64 << 10], whole[-64 << 10 :])
    assert (None if ends is None else json.loads(ends)) == found


def test_a_tail_in_the_middle_of_a_text() -> None:
    """Where the tail begins means nothing."""
    whole = b'{"a":1,"text":"%b","usage":{"n":2}}' % (b'\\",\\"b\\":\\"' * 30_000)
    for size in range(40_000, 40_020):
        assert apis.ends_of(whole[:100], whole[-size:]) == b'{"a":1,"usage":{"n":2}}'
