"""`sidecar check`: what would keep the sidecar from working, before traffic does.

Owns the order of the checks, how they are told, and the exit code. Each check looks at the real thing: it binds the
ports, connects as the relay does, and lets a sidecar with these settings export something.
"""

import asyncio
import json
import sys
from collections.abc import Mapping

from sidecar.check.collector import check_collector
from sidecar.check.finding import Finding, State
from sidecar.check.local import check_clock, check_files, check_ports
from sidecar.check.upstreams import check_upstreams
from sidecar.settings import Settings

__all__ = ["Finding", "State", "check", "tell"]


def check(settings: Settings, environ: Mapping[str, str], *, collector: bool = True) -> list[Finding]:
    """Everything that was found; takes some seconds. `environ` is what a sidecar would be started with.

    `collector` False leaves out what sends telemetry.
    """
    findings = [Finding(State.OK, "settings", "valid"), *check_ports(settings), check_files(settings)]
    asked = asyncio.run(check_upstreams(settings))
    findings += [one.finding for one in asked]
    findings.append(check_clock([one.ahead for one in asked if one.ahead is not None]))
    if collector:
        findings += check_collector(settings, environ)
    return findings


def tell(findings: list[Finding], *, as_json: bool) -> int:
    """Prints them; 1 if one of them would keep the sidecar from working, else 0.

    Raises:
        OSError: nobody takes what is printed.
    """
    if as_json:
        print(json.dumps([one.document() for one in findings], indent=2), flush=True)
    else:
        for one in findings:
            print(one, flush=True)
    failed = sum(one.state is State.FAIL for one in findings)
    if failed and not as_json:
        print(f"sidecar: {failed} of {len(findings)} checks failed", file=sys.stderr)
    return 1 if failed else 0
