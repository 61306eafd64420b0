"""Which provider a host name tells."""

import pytest

from sidecar.providers import provider_of_host

HOSTS = [
    ("api.openai.com", "openai"),
    ("EU.API.OpenAI.com.", "openai"),
    ("api.anthropic.com", "anthropic"),
    ("generativelanguage.googleapis.com", "gcp.gemini"),
    ("us-east5-aiplatform.googleapis.com", "gcp.vertex_ai"),
    ("aiplatform.googleapis.com", "gcp.vertex_ai"),
    ("aiplatform.eu.rep.googleapis.com", "gcp.vertex_ai"),
    ("acme.openai.azure.com", "azure.ai.openai"),
    ("acme.services.ai.azure.com", "azure.ai.inference"),
    ("bedrock-runtime.us-west-2.amazonaws.com", "aws.bedrock"),
    ("s3.us-west-2.amazonaws.com", None),
    ("api.groq.com", "groq"),
    ("api.mistral.ai", "mistral_ai"),
    ("api.deepseek.com", "deepseek"),
    ("api.perplexity.ai", "perplexity"),
    ("us-east-1.api.x.ai", "x_ai"),
    ("api.moonshot.ai", "moonshot_ai"),
    ("api.moonshot.cn", "moonshot_ai"),
    ("api.cohere.com", "cohere"),
    ("us-south.ml.cloud.ibm.com", "ibm.watsonx.ai"),
    ("openrouter.ai", "openrouter"),
    ("notapi.openai.com.evil.example", None),
    ("127.0.0.1", None),
    ("", None),
]


@pytest.mark.parametrize("host, provider", HOSTS)
def test_provider_of_host(host: str, provider: str | None) -> None:
    """Hosts of the table, by name or by ending."""
    assert provider_of_host(host) == provider
