"""Lanes in a terminal: one lane per conversation, drawn from what the admin port tells.

Owns the drawing, the terminal, and the sidecar that runs behind it as a child. It knows nothing of who sends requests.
"""
