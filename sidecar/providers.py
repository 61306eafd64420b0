"""Which provider a host belongs to: `gen_ai.provider.name`, as far as a host name can tell.

Owns the table. The values are those of OpenTelemetry's GenAI semantic conventions; hosts for which the
conventions have no value get a plain name of the same form. An unknown host has no provider here.
"""

_HOSTS = {
    "api.openai.com": "openai",
    "chatgpt.com": "openai",
    "api.anthropic.com": "anthropic",
    "generativelanguage.googleapis.com": "gcp.gemini",
    "aiplatform.googleapis.com": "gcp.vertex_ai",
    "cloudcode-pa.googleapis.com": "gcp.gen_ai",
    "models.inference.ai.azure.com": "azure.ai.inference",
    "api.groq.com": "groq",
    "api.mistral.ai": "mistral_ai",
    "codestral.mistral.ai": "mistral_ai",
    "api.deepseek.com": "deepseek",
    "api.perplexity.ai": "perplexity",
    "api.moonshot.ai": "moonshot_ai",
    "api.moonshot.cn": "moonshot_ai",
    "api.x.ai": "x_ai",
    "api.cohere.com": "cohere",
    "api.cohere.ai": "cohere",
    "openrouter.ai": "openrouter",
    "api.together.xyz": "together_ai",
    "api.together.ai": "together_ai",
    "api.fireworks.ai": "fireworks_ai",
    "api.cerebras.ai": "cerebras",
}

_SUFFIXES = (
    (".api.openai.com", "openai"),
    (".openai.azure.com", "azure.ai.openai"),
    (".openai.azure.us", "azure.ai.openai"),
    (".cognitiveservices.azure.com", "azure.ai.openai"),
    (".services.ai.azure.com", "azure.ai.inference"),
    (".models.ai.azure.com", "azure.ai.inference"),
    (".inference.ml.azure.com", "azure.ai.inference"),
    ("-aiplatform.googleapis.com", "gcp.vertex_ai"),
    (".rep.googleapis.com", "gcp.vertex_ai"),
    (".api.x.ai", "x_ai"),
    (".ml.cloud.ibm.com", "ibm.watsonx.ai"),
)

_BEDROCK_NAMES = ("bedrock", "bedrock-runtime", "bedrock-runtime-fips", "bedrock-mantle")
_BEDROCK_SUFFIXES = (".amazonaws.com", ".amazonaws.com.cn", ".api.aws")


def provider_of_host(host: str) -> str | None:
    """`gen_ai.provider.name` of a host name (no port; any case), or None when the host is not known."""
    name = host.lower().rstrip(".")
    provider = _HOSTS.get(name)
    if provider is not None:
        return provider
    for suffix, provider in _SUFFIXES:
        if name.endswith(suffix):
            return provider
    if name.endswith(_BEDROCK_SUFFIXES) and name.partition(".")[0] in _BEDROCK_NAMES:
        return "aws.bedrock"
    return None
