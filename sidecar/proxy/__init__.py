"""The relay: bytes between an app and its provider, and the one short list of what changes on the way.

Owns sockets, HTTP parsing (llhttp), the pool and the flow of one request. It reports what happens through
`core.exchange.Telemetry` and knows no OpenTelemetry. A newcomer starts at `flow.py`.
"""
