"""OpenAI's embeddings.

Owns what a request and a body of `/embeddings` mean. There is no stream, and the vectors are not read.
Shapes: https://platform.openai.com/docs/api-reference/embeddings
"""

import msgspec

from sidecar.apis.base import ModelRequest, Reader, holds, present
from sidecar.apis.decode import Ident, Int64, Shape, Word
from sidecar.apis.errors import error_word, is_error
from sidecar.apis.openai_common import Usage, name_answer
from sidecar.core.facts import ResponseFacts


class EmbeddingsRequest(ModelRequest, kw_only=True):
    """What is read of a request."""

    dimensions: Int64 | None = None
    encoding_format: Word | None = None

    def attributes(self) -> dict[str, object]:
        """The request's parameters by the attribute names of the conventions."""
        return present(
            {
                "gen_ai.embeddings.dimension.count": self.dimensions,
                "gen_ai.request.encoding_formats": [self.encoding_format] if self.encoding_format else None,
            }
        )


class _Body(msgspec.Struct):
    id: Ident | None = None
    model: Word | None = None
    data: msgspec.Raw = msgspec.Raw()
    usage: Usage | None = None
    error: msgspec.Raw = msgspec.Raw()


_BODY = Shape(_Body)


class EmbeddingsBody(Reader[_Body]):
    """Reads an answer."""

    __slots__ = ()

    def __init__(self, facts: ResponseFacts) -> None:
        super().__init__(_BODY, facts)

    def body(self, data: bytes) -> bool:
        """Takes the body."""
        body = self._read(data)
        if body is None:
            return False
        name_answer(self.facts, body.id, body.model)
        if body.usage:
            self._tokens(body.usage.tokens())
        if is_error(body.error):
            self._failed(error_word(body.error))
        return self._is_answer(data, something=holds(body.data))
