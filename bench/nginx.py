"""nginx in three parts: the fast upstream, the proxy to compare with, and a collector that only says 200.

Owns their configurations, each complete, with one worker, no log and every path inside the run's own folder.
It starts nothing.
"""

import re
from pathlib import Path

from bench import traffic

_FRAME = """\
daemon off;
worker_processes 1;
pid {folder}/nginx.pid;
error_log stderr error;
worker_rlimit_nofile 16384;
events {{ worker_connections 8192; }}
http {{
  access_log off;
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  keepalive_requests 100000000;
  keepalive_timeout 300s;
  client_max_body_size 0;
  client_body_buffer_size 64k;
{rest}
}}
"""

_PROXY = """\
  upstream unary {{ server {unary}; keepalive 256; keepalive_requests 100000000; }}
  upstream streams {{ server {streams}; keepalive 256; }}
  proxy_http_version 1.1;
  proxy_set_header Connection "";
  server {{
    listen 127.0.0.1:{port} backlog=2048;
    location / {{ proxy_pass http://unary; }}
    location /streams/ {{ proxy_pass http://streams/; proxy_buffering off; proxy_read_timeout 600s; }}
  }}"""


def upstream(folder: Path, port: int) -> Path:
    """Answers every request with the same completion."""
    body = traffic.answer_body().decode()
    if re.search(r"['$\\]", body):
        raise ValueError("the answer would need quoting in nginx's configuration")
    return _write(
        folder,
        f"""  server {{
    listen 127.0.0.1:{port} backlog=2048;
    location / {{
      default_type application/json;
      add_header openai-processing-ms 412;
      add_header x-request-id req_0000000000000000000000000000;
      return 200 '{body}';
    }}
  }}""",
    )


def proxy(folder: Path, port: int, unary: str, streams: str) -> Path:
    """Passes everything on: `proxy_pass`, kept connections, HTTP/1.1. Upstreams are `host:port`."""
    return _write(folder, _PROXY.format(port=port, unary=unary, streams=streams))


def collector(folder: Path, port: int) -> Path:
    """Takes every export and says that it is stored: an empty OTLP answer is a full success."""
    return _write(
        folder,
        f"""  server {{
    listen 127.0.0.1:{port};
    location / {{ default_type application/x-protobuf; return 200; }}
  }}""",
    )


def _write(folder: Path, rest: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "nginx.conf"
    path.write_text(_FRAME.format(folder=folder, rest=rest), encoding="utf-8")
    return path
