"""The `openai` client for Node, driven like those for Python: one process, one line of JSON per case.

The package is installed into a cache in the checkout, once per lock file; nothing else of the machine is touched.
"""

import base64
import hashlib
import json
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.clients.apis import CHAT, QUESTION
from tests.clients.python_sdks import Answer, Ask, Client, Heard

SOURCE = Path(__file__).parent / "node"
CACHE = Path(__file__).parents[2] / ".cache" / "clients"
INSTALL_TIMEOUT = 300


def at_hand() -> bool:
    """Whether Node and npm are installed."""
    return shutil.which("node") is not None and shutil.which("npm") is not None


def _installed() -> Path:
    """The folder with the package that the lock names, and with the cases as they are now."""
    lock = (SOURCE / "package-lock.json").read_bytes()
    folder = CACHE / f"node-{hashlib.sha256(lock).hexdigest()[:12]}"
    folder.mkdir(parents=True, exist_ok=True)
    for file in SOURCE.iterdir():
        shutil.copy(file, folder)
    if not (folder / "node_modules" / ".package-lock.json").is_file():
        command = ("npm", "ci", "--no-audit", "--no-fund", "--loglevel=error")
        done = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, timeout=INSTALL_TIMEOUT, check=False
        )
        assert done.returncode == 0, done.stderr
    return folder


@contextmanager
def node_client() -> Iterator[Client]:
    """The client, as long as its process runs."""
    process = subprocess.Popen(
        ("node", "cases.mjs"), cwd=_installed(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    told, says = process.stdin, process.stdout
    assert told
    assert says

    def run(ask: Ask) -> Heard:
        case = {
            "kind": ask.kind,
            "base_url": ask.base_url,
            "model": CHAT.model,
            "question": QUESTION,
            "headers": dict(ask.headers),
            "timeout": ask.timeout,
        }
        told.write(json.dumps(case) + "\n")
        told.flush()
        said = json.loads(says.readline())
        answers = [
            Answer(
                one["status"],
                [tuple(pair) for pair in one["fields"]],
                bytearray(base64.b64decode(one["payload"])),
            )
            for one in said["answers"]
        ]
        return Heard(said["text"], [tuple(call) for call in said["calls"]], said["error"], answers)

    with process:
        yield Client("openai-node", CHAT, run, ("APIConnectionTimeoutError", ""), unpacks=True)
        told.close()
