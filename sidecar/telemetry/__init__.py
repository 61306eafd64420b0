"""Everything that leaves as OpenTelemetry: spans, metrics, logs, and the ledger of what became of them.

Owns every signal's name and its way out. It sees frozen exchanges and session summaries, never the wire, and
whatever goes wrong here touches no request. A newcomer starts at `recorder.py`.
"""
