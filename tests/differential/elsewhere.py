"""A program: every client calls each URL that is an argument, and what they say goes to the output, pickled.

For calls that are made under another system's settings than the tests' own.
"""

import pickle
import sys
from concurrent.futures import ThreadPoolExecutor

from tests.differential.four_clients import CLIENTS, Ask, Said


def said_of(urls: list[str]) -> dict[tuple[str, str], Said | None]:
    """What each client is told, by URL and client."""
    jobs = [(url, client) for url in urls for client in CLIENTS]
    with ThreadPoolExecutor(48) as threads:
        said = threads.map(lambda job: CLIENTS[job[1]](job[0], [Ask()])[0], jobs)
    return dict(zip(jobs, said, strict=True))


if __name__ == "__main__":
    sys.stdout.buffer.write(pickle.dumps(said_of(sys.argv[1:])))
