"""The name of every span attribute, span event and log event, each once, with a sentence.

Owns names only; metrics are in `metrics.py`. Names of the OpenTelemetry semantic conventions (v1.41.1, GenAI
in its shipped form) are used wherever they exist; the others start with `sidecar.`. Durations on spans are
seconds.
"""


class Catalogue(dict[str, str]):
    """Names, each with the sentence that explains it, in the order they were defined."""

    def define(self, name: str, says: str) -> str:
        """Enters a name and gives it back.

        Raises:
            ValueError: the name stands here already.
        """
        if name in self:
            raise ValueError(f"{name} is defined twice")
        self[name] = says
        return name


ALL_ATTRIBUTES = Catalogue()
"""Every attribute of a span, a span event, a link, a log record or a metric."""

_name = ALL_ATTRIBUTES.define

# Who: on every span of a request
SESSION_ID = _name("session.id", "What the caller says belongs together, or a made-up id (see its source).")
SESSION_SOURCE = _name(
    "sidecar.session.source", "Which rule gave the session id; generated ids are said to be."
)
CONVERSATION = _name(
    "sidecar.conversation.id", "The thread inside the session; `main` if the caller names none."
)
GEN_AI_CONVERSATION = _name(
    "gen_ai.conversation.id",
    "The conversation the caller supplied, else its session id; absent if it named none.",
)
REQUEST_ID = _name("sidecar.request.id", "The request's own id, also told to the client.")
SEQUENCE = _name("sidecar.request.sequence", "The request's running number within its conversation, from 1.")

# The SERVER span: HTTP
METHOD = _name("http.request.method", "The request's method; `_OTHER` for one that is not well known.")
METHOD_ORIGINAL = _name("http.request.method_original", "The method as sent, when it is not well known.")
SCHEME = _name("url.scheme", "`http` or `https`, as the app connected.")
PATH = _name(
    "url.path", "The request's path; segments of an unknown place that are not plain words are REDACTED."
)
URL = _name(
    "url.full",
    "The URL the upstream was asked for, redacted likewise; on CLIENT spans that are of no model's operation.",
)
URL_TEMPLATE = _name("url.template", "The route's template again, where `url.full` is.")
QUERY = _name("url.query", "The query's names; values only of a short harmless list, all others REDACTED.")
ROUTE = _name("http.route", "The route's template; `/{provider path}` for one that is not known.")
STATUS = _name("http.response.status_code", "The answer's status code.")
PROTOCOL_VERSION = _name("network.protocol.version", "The HTTP version spoken.")
SERVER_ADDRESS = _name(
    "server.address", "The host asked for: by `Host` on SERVER spans, if that names one, else the upstream's."
)
SERVER_PORT = _name("server.port", "The port that goes with `server.address`.")
CLIENT_ADDRESS = _name("client.address", "The address of the app.")
CLIENT_PORT = _name("client.port", "The port of the app.")
PEER_ADDRESS = _name("network.peer.address", "The upstream address a connection was made to.")
USER_AGENT = _name("user_agent.original", "The app's User-Agent field, read as UTF-8 if it is UTF-8.")
REQUEST_SIZE = _name("http.request.body.size", "Bytes of the request's body, as they passed.")
RESPONSE_SIZE = _name("http.response.body.size", "Bytes of the answer's body, as they passed.")
RESEND_COUNT = _name(
    "http.request.resend_count", "How often the request was sent again on a fresh connection."
)
ERROR_TYPE = _name("error.type", "Why it is an error: a status code, or a word of a fixed list.")

# The SERVER span: what happened
OUTCOME = _name("sidecar.outcome", "How the request ended: one of nine words.")
PHASE = _name("sidecar.outcome.phase", "Where in its life the outcome was decided.")
STREAMING = _name("sidecar.streaming", "The answer streams, or was asked to.")
UPSTREAM = _name("sidecar.upstream", "The configured upstream's name.")
BODY_STATE = _name("sidecar.request.body.state", "`read`, `none`, or why the request's body was not read.")
BODY_READ_TIME = _name(
    "sidecar.request.body.read_time", "Seconds from the request's first byte to its arrival."
)
IGNORED = _name("sidecar.request.ignored", "Fields of the body whose type was not what the API says.")
MESSAGES = _name("sidecar.request.messages", "How many messages the request carried.")
OVERLAPS = _name("sidecar.request.overlaps", "Turns of the conversation in flight at this one's arrival.")
OVERLAPPED_BY = _name("sidecar.request.overlapped_by", "Turns that arrived while this one was in flight.")
DISTANCE = _name(
    "sidecar.request.out_of_order.distance", "Later turns that completed before this one; 0: in order."
)
WAIT_AVOIDED = _name(
    "sidecar.request.wait_avoided", "Seconds a queue would have made it wait, if known by its end."
)
THINK_TIME = _name(
    "sidecar.request.think_time", "Seconds since the conversation's last ending, none being in flight."
)
TURN_RELATION = _name("sidecar.turn.relation", "What the turn is to its past: a word of a fixed list.")
BROKE_AT = _name(
    "sidecar.prompt.broke_at",
    "Where the prompt first differs from that of the turn before: a word of a fixed list.",
)
CACHED_SHARE = _name(
    "sidecar.prompt.cached", "Share of the input tokens that came from the provider's cache, as reported."
)
TURN_KEPT = _name(
    "sidecar.turn.kept", "Messages at its beginning that the conversation's latest request began with too."
)
RETRY = _name(
    "sidecar.request.retry", "The caller marked the request as a retry, or its key was seen before."
)
RETRY_COUNT = _name("sidecar.request.retry_count", "The number of the retry, as the caller told it.")
REQUEST_KIND = _name("sidecar.request.kind", "What the caller says the request is for.")
AGENT = _name("sidecar.agent", "The agent the caller names.")
PARENT_AGENT = _name("sidecar.agent.parent", "The agent that started this one.")
AGENT_KIND = _name("sidecar.agent.kind", "What kind of sub-agent the caller says it is.")
PARENT_CONVERSATION = _name(
    "sidecar.conversation.parent", "The conversation of the session whose agent started this one's."
)
AGENT_TURN = _name("sidecar.agent.turn", "The agent's turn, of one or more requests, as the caller names it.")
PARENT_TURN = _name("sidecar.agent.turn.parent", "The turn of another agent in which this one was started.")
ROOT_TURN = _name("sidecar.agent.turn.root", "The turn of a user's that led to this one.")
THREAD_SOURCE = _name("sidecar.conversation.source", "Who began the conversation, as the caller says.")
INITIATOR = _name("sidecar.request.initiator", "`user` or `agent`: who goes on, as the caller says.")
OVERHEAD_BEFORE = _name(
    "sidecar.overhead.before", "Seconds the sidecar itself took before asking for a connection."
)
OVERHEAD_AFTER = _name("sidecar.overhead.after", "Seconds from reading to writing the answer's pieces.")
OVERHEAD_LOOP = _name("sidecar.overhead.loop", "Seconds of waiting for the event loop.")
ANOMALIES = _name("sidecar.anomalies", "What should not have happened to this request, each word once.")
LINKS_DROPPED = _name(
    "sidecar.links.dropped", "Links beyond the 32 that are kept, those within the trace among them."
)
REPLAY_OMITTED = _name(
    "sidecar.replay.omitted", "Requests of the session that its replay has no span of; absent if it has all."
)
LINKS_WITHIN = _name(
    "sidecar.links.same_trace",
    "What would be links to spans of the same trace: why, a colon, the span's id. A viewer would take such links for parents.",
)
LINK = _name("sidecar.link", "On a link: why it is there.")

# The CLIENT span
OPERATION = _name("gen_ai.operation.name", "What was asked for: chat, text_completion, embeddings, ...")
PROVIDER = _name("gen_ai.provider.name", "Who serves it, by the upstream's host, else by the API's shape.")
REQUEST_MODEL = _name("gen_ai.request.model", "The model asked for.")
REQUEST_STREAM = _name("gen_ai.request.stream", "A stream was asked for.")
RESPONSE_ID = _name("gen_ai.response.id", "The answer's id.")
RESPONSE_MODEL = _name("gen_ai.response.model", "The model that answered.")
FINISH_REASONS = _name(
    "gen_ai.response.finish_reasons", "Why generation stopped, one per choice, as reported."
)
TIME_TO_FIRST_CHUNK = _name("gen_ai.response.time_to_first_chunk", "Seconds from asking to the first output.")
INPUT_TOKENS = _name("gen_ai.usage.input_tokens", "Input tokens as reported.")
OUTPUT_TOKENS = _name("gen_ai.usage.output_tokens", "Output tokens as reported.")
CACHE_READ_TOKENS = _name(
    "gen_ai.usage.cache_read.input_tokens", "Input tokens served from the provider's cache."
)
CACHE_CREATION_TOKENS = _name(
    "gen_ai.usage.cache_creation.input_tokens", "Input tokens written to the provider's cache (shipped name)."
)
CACHE_WRITE_TOKENS = _name(
    "gen_ai.usage.cache_write.input_tokens", "Input tokens written to the provider's cache (latest name)."
)
REASONING_TOKENS = _name("gen_ai.usage.reasoning.output_tokens", "Output tokens spent on reasoning.")
UPSTREAM_REQUEST_ID = _name(
    "sidecar.upstream.request_id", "The provider's own id of the request, from its headers."
)
UPSTREAM_PROCESSING = _name(
    "sidecar.upstream.processing_time", "Seconds the provider says it took, from its headers."
)
UPSTREAM_ERROR = _name("sidecar.upstream.error", "The provider's error code or type, as sent.")

# What a body asks for: gen_ai.request.* as the API readers give them
CHOICE_COUNT = _name("gen_ai.request.choice.count", "Choices asked for, when not one.")
ENCODING_FORMATS = _name("gen_ai.request.encoding_formats", "Encodings of embeddings asked for.")
FREQUENCY_PENALTY = _name("gen_ai.request.frequency_penalty", "The frequency penalty asked for.")
MAX_TOKENS = _name("gen_ai.request.max_tokens", "The most output tokens allowed.")
PRESENCE_PENALTY = _name("gen_ai.request.presence_penalty", "The presence penalty asked for.")
SEED = _name("gen_ai.request.seed", "The seed asked for.")
STOP_SEQUENCES = _name("gen_ai.request.stop_sequences", "Sequences that stop the model.")
TEMPERATURE = _name("gen_ai.request.temperature", "The temperature asked for.")
TOP_K = _name("gen_ai.request.top_k", "The top-k setting asked for.")
TOP_P = _name("gen_ai.request.top_p", "The top-p setting asked for.")
PREVIOUS_RESPONSE = _name(
    "gen_ai.request.previous_response.id", "The response that the request builds on (latest conventions)."
)
REASONING_LEVEL = _name(
    "gen_ai.request.reasoning.level", "How hard the model is asked to think, as sent (latest conventions)."
)
SERVICE_TIER = _name(
    "openai.request.service_tier",
    "The service tier asked for, when not `auto`; only where the provider is `openai`.",
)
OPENAI_API = _name(
    "openai.api.type", "`chat_completions` or `responses`; only where the provider is `openai`."
)
RESPONSE_TIER = _name(
    "openai.response.service_tier",
    "The service tier that served it, as reported; only where the provider is `openai`.",
)
FINGERPRINT = _name(
    "openai.response.system_fingerprint",
    "The provider's name of the configuration that answered; only where the provider is `openai`.",
)
OUTPUT_TYPE = _name("gen_ai.output.type", "The kind of output asked for.")
EMBEDDING_DIMENSIONS = _name("gen_ai.embeddings.dimension.count", "Dimensions of embeddings asked for.")

# connect, wait and stream spans
CONNECTION = _name("sidecar.connection", "`new`, `waited` (for a pooled one) or `reused`.")
CONNECT_DNS = _name("sidecar.connect.dns", "Seconds of name resolution.")
CONNECT_DNS_KEPT = _name(
    "sidecar.connect.dns.kept",
    "True if the addresses come from an earlier look-up, because a fresh one is slow or failed; else absent.",
)
CONNECT_TCP = _name("sidecar.connect.tcp", "Seconds of the TCP connect.")
CONNECT_TLS = _name("sidecar.connect.tls", "Seconds of the TLS handshake.")
STREAM_BYTES = _name("sidecar.stream.bytes", "Bytes of the stream.")
STREAM_EVENTS = _name("sidecar.stream.events", "Events of the stream, pings not counted.")
STREAM_CHUNKS = _name("sidecar.stream.chunks", "Events that carried output.")
STREAM_GAP = _name("sidecar.stream.gap", "The longest silence between data-bearing events, seconds.")
STREAM_STALLS = _name("sidecar.stream.stalls", "Silences over SIDECAR_STALL_AFTER.")
STREAM_BLOCKED = _name("sidecar.stream.blocked", "Seconds a slow client kept the stream waiting.")
STREAM_UNREADABLE = _name("sidecar.stream.unreadable", "Events that could not be read.")
STALL_DURATION = _name("sidecar.stall.duration", "Seconds of silence when the stall was noted.")
CLOCK_JUMP = _name("sidecar.clock.jump", "Seconds by which the wall clock jumped; below 0: back.")

# conversation and session spans
TOTAL_CONVERSATIONS = _name("sidecar.total.conversations", "Conversations of the session.")
TOTAL_REQUESTS = _name("sidecar.total.requests", "Requests of any outcome.")
TOTAL_COMPLETED = _name("sidecar.total.requests.completed", "Requests that ended so; absent if none did.")
TOTAL_CLIENT_LEFT = _name("sidecar.total.requests.client_left", "Requests that ended so; absent if none did.")
TOTAL_REJECTED = _name(
    "sidecar.total.requests.upstream_rejected", "Requests that ended so; absent if none did."
)
TOTAL_FAILED = _name("sidecar.total.requests.upstream_failed", "Requests that ended so; absent if none did.")
TOTAL_ERROR_IN_STREAM = _name(
    "sidecar.total.requests.error_in_stream", "Requests that ended so; absent if none did."
)
TOTAL_TIMED_OUT = _name("sidecar.total.requests.timed_out", "Requests that ended so; absent if none did.")
TOTAL_REFUSED = _name("sidecar.total.requests.refused", "Requests that ended so; absent if none did.")
TOTAL_SHUTDOWN = _name("sidecar.total.requests.shutdown", "Requests that ended so; absent if none did.")
TOTAL_INTERNAL_ERROR = _name(
    "sidecar.total.requests.internal_error", "Requests that ended so; absent if none did."
)
TOTAL_TURNS = _name("sidecar.total.turns", "Requests that generate.")
TOTAL_OVERLAPS = _name("sidecar.total.overlaps", "Turns that arrived while another was in flight.")
TOTAL_MOST_AT_ONCE = _name(
    "sidecar.total.most_at_once", "The most turns of one conversation in flight at once."
)
TOTAL_OUT_OF_ORDER = _name("sidecar.total.out_of_order", "Completed turns that later ones had overtaken.")
TOTAL_WAITS_KNOWN = _name("sidecar.total.waits_known", "Turns whose avoided wait is known.")
TOTAL_WAITS_UNKNOWN = _name(
    "sidecar.total.waits_unknown", "Turns whose avoided wait a cap or a shutdown left open."
)
TOTAL_WAIT_AVOIDED = _name(
    "sidecar.total.wait_avoided", "Seconds a queue would have made its turns wait, summed."
)
TOTAL_MODEL_TIME = _name("sidecar.total.model_time", "Seconds its turns took, summed.")
TOTAL_THINK_TIME = _name(
    "sidecar.total.think_time", "Seconds between an ending and the next arrival, summed."
)
TOTAL_INPUT_TOKENS = _name(
    "sidecar.total.tokens.input", "Input tokens of its requests, summed; absent if none was reported."
)
TOTAL_OUTPUT_TOKENS = _name(
    "sidecar.total.tokens.output", "Output tokens of its requests, summed; absent if none was reported."
)
MODELS = _name("sidecar.models", "Models used.")

# Metrics only
TOKEN_TYPE = _name("gen_ai.token.type", "`input` or `output`.")
TOKEN_DETAIL = _name(
    "sidecar.token.detail",
    "`cache_read` and `cache_write` (of the input), `reasoning` (of the output).",
)
TOKEN_MODALITY = _name(
    "gen_ai.token.modality", "Always `unknown`: providers' reports do not tell it in one form."
)
FINISH_REASON = _name("sidecar.finish_reason", "A known finish reason, `other`, or `missing`.")
RESULT = _name(
    "sidecar.result", "How the request ended, the provider's answer by its kind: a word of a fixed list."
)
REQUEST_PHASE = _name(
    "sidecar.request.phase", "What its time went to, or goes to now: `body`, `connect`, `wait` or `stream`."
)
RATELIMIT_KIND = _name(
    "sidecar.ratelimit.kind", "What is limited: `requests`, `tokens`, `input_tokens` or `output_tokens`."
)
OVERHEAD_PART = _name("sidecar.overhead.part", "`before`, `after` or `loop`.")
ANOMALY = _name("sidecar.anomaly", "What should not have happened: a word of a fixed list.")
TELEMETRY_SIGNAL = _name(
    "sidecar.telemetry.signal",
    "`traces`, `metrics`, `logs`, or `lines` (on stderr); `console_traces` and so on of the exporter `console`.",
)
TELEMETRY_STATE = _name("sidecar.telemetry.state", "What became of an item: a word of the ledger.")
CPU_MODE = _name("cpu.mode", "`user` or `system`.")

# Log lines only
DURATION = _name(
    "sidecar.duration", "Seconds from the request's first byte to its end; of a session or conversation."
)
AGE = _name("sidecar.request.age", "Seconds that a request in flight has been running.")
SILENCE = _name(
    "sidecar.request.silence",
    "Seconds since its upstream was last heard of, or could have begun; absent before it was asked.",
)
MESSAGE = _name("sidecar.message", "What went wrong, in the sidecar's own words.")
SUPPRESSED = _name("sidecar.suppressed", "How many lines like this one were left out before it.")
EXCEPTION_TYPE = _name("exception.type", "Why an upstream call failed: the call's `error.type`.")
EXCEPTION_MESSAGE = _name("exception.message", "The same in the sidecar's own words, where it has some.")

# Lines of the sidecar's own life: on stderr without `sidecar.`
LINE_DATA = _name("sidecar.data", "The address of the data port.")
LINE_ADMIN = _name("sidecar.admin", "The address of the admin port.")
LINE_VERSION = _name("sidecar.version", "The sidecar's version.")
LINE_TO = _name("sidecar.to", "Where an upstream is.")
LINE_COLLECTOR = _name("sidecar.collector", "Where a collector is.")
LINE_BY = _name("sidecar.by", "How it is reached: `direct`, or through which proxy.")
LINE_IN_FLIGHT = _name("sidecar.in_flight", "Requests in flight when the drain began.")
LINE_ERROR = _name("sidecar.error", "The kind of a mistake of the sidecar's own.")
LINE_FRAMES = _name("sidecar.frames", "Where it was made.")

ALL_EVENTS = Catalogue()
"""Every log event's name, and the span event's."""

_event = ALL_EVENTS.define

SESSION_START = _event("session.start", "The first request of a named session arrived.")
SESSION_END = _event("session.end", "A session ended: idle for long enough, evicted, or the sidecar stopped.")
REQUEST_GENERATED = _event("sidecar.request.generated", "A request joined its conversation and got its id.")
REQUEST_COMPLETED = _event("sidecar.request.completed", "The wide line of a request that completed.")
REQUEST_FAILED = _event("sidecar.request.failed", "The wide line of a request that ended in any other way.")
CALL_FAILED = _event(
    "gen_ai.client.operation.exception",
    "A call to a model failed; by OTLP alone, in the context of its CLIENT span: the wide line tells it on stderr.",
)
REQUEST_OUT_OF_ORDER = _event("sidecar.request.out_of_order", "A turn completed after later ones had.")
REQUEST_STALLED = _event(
    "sidecar.request.stalled",
    "An answer has been silent for SIDECAR_STALL_AFTER; also an event on its stream span.",
)
REQUEST_LONG_RUNNING = _event(
    "sidecar.request.long_running",
    "A request in flight has been running for SIDECAR_LONG_RUNNING, or for that long again.",
)
TELEMETRY_FAILED = _event(
    "sidecar.telemetry.failed", "A bug inside telemetry was caught; the call was not affected."
)
EXPORT_FAILING = _event("sidecar.telemetry.failing", "Exports of a signal began to fail; why.")
EXPORT_STILL_FAILING = _event(
    "sidecar.telemetry.still_failing", "They still fail: once a minute, with how much was lost."
)
EXPORT_DROPPED = _event(
    "sidecar.telemetry.dropped",
    "Items found no room in their queue, because more is made than leaves: once, then once a minute, with how many.",
)
EXPORT_RECOVERED = _event(
    "sidecar.telemetry.recovered",
    "Exports work again, or stderr takes lines again; how much was lost meanwhile.",
)
EXPORT_WARNING = _event(
    "sidecar.telemetry.warning", "What a collector said about an export that it took, once for each text."
)
LIBRARY = _event(
    "sidecar.library", "A warning or error from a library below: whose, where and of what kind, not its text."
)
LISTENING = _event("sidecar.listening", "The ports are open; where.")
WAY_OUT = _event(
    "sidecar.way_out", "How an upstream or a collector is reached: directly, or through which proxy."
)
TELEMETRY_NOTE = _event("sidecar.telemetry", "What an operator should know about where telemetry goes.")
CLOCK_JUMPED = _event(
    "sidecar.clock.jumped",
    "The wall clock was set, or the machine stood still; what begins now has the new time.",
)
DRAINING = _event("sidecar.draining", "Nothing new is taken; running requests may end.")
STOPPED = _event(
    "sidecar.stopped", "The end: how many requests and sessions there were, and the ledger of all telemetry."
)
BUG = _event(
    "sidecar.bug",
    "A bug in the sidecar ended a request, or the reading of its body, history or answer; its kind and where.",
)
