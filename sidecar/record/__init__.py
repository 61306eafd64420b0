"""What was recorded of requests, in files: written while the sidecar runs, looked at and played again afterwards.

Owns the files of `SIDECAR_RECORD`: a line of JSON per request, the document that the live page shows of one
(`sidecar.live.Detail`). No content of a request or an answer is in it.
"""

from sidecar.record.reader import RecordError, read_records
from sidecar.record.writer import RecordWriter

__all__ = ["RecordError", "RecordWriter", "read_records"]
