"""`sidecar inject`: Kubernetes manifests with the sidecar in every pod, and without it again.

Owns what is put in (`container.py`), where (`manifests.py`), and how files are written (`files.py`). What was there stays byte for byte, comments and all.
"""

from sidecar.inject.files import replace_files
from sidecar.inject.manifests import Injected, InjectError, inject, remove

__all__ = ["InjectError", "Injected", "inject", "remove", "replace_files"]
