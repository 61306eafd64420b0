"""The version of this package, said once.

Read by the build (`pyproject.toml`), the command line, the admin port and the telemetry's scope. It holds
nothing else, so that everybody may import it.
"""

VERSION = "0.1.0"
