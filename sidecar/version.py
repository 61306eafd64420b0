"""The version of this package, said once.

It holds nothing else, so that everybody may import it.
"""

VERSION = "0.1.0"
