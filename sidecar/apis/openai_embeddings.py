"""OpenAI's embeddings.

Owns what a request and a body of `/embeddings` mean. There is no stream, and the vectors are not read. Nothing is made but
them, so a total alone (Voyage) is the input.
Shapes: https://platform.openai.com/docs/api-reference/embeddings
"""

import msgspec

from sidecar.apis.base import Api, ModelRequest, Path, Reader, holds, present
from sidecar.apis.errors import error_word, is_error
from sidecar.apis.openai_common import Usage, name_answer
from sidecar.apis.shapes import Ident, Int64, Shape, Word


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


class EmbeddingsReader(Reader[_Body, _Body]):
    """Reads an answer."""

    __slots__ = ()

    event_shape = _BODY
    shape = _BODY

    def _answers(self, body: _Body, data: bytes) -> bool:  # noqa: ARG002 - all is in `body`
        """Takes the body."""
        name_answer(self.facts, body.id, body.model)
        if body.usage:
            self._tokens(body.usage.tokens() or present({"input": body.usage.total_tokens}))
        if is_error(body.error):
            self._failed(error_word(body.error))
        return holds(body.data)


API = Api(
    name="openai.embeddings",
    title="OpenAI's embeddings",
    paths=(Path(end="/embeddings", operation="embeddings", provider="openai"),),
    request=EmbeddingsRequest,
    body=EmbeddingsReader,
)
