"""The pure heart: what requests, outcomes, sessions and events are.

Owns every definition. Values with timestamps in, values out; standard library only. It knows no socket, no
HTTP library and no OpenTelemetry, and it never asks for the time.
"""
