"""`python -m sidecar`: the same as the command `sidecar`.

Owns nothing; it hands over to the command line and leaves with its exit code. For whoever has an
environment's Python but not its console scripts.
"""

import sys

from sidecar.cli import main

if __name__ == "__main__":
    sys.exit(main())
