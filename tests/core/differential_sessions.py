"""The session manager beside the one it replaces, on random traffic: `python tests/core/differential_sessions.py WORLDS`.

The older one is read from the history of this repository. Whatever the two say of one arrival, ending, wait, gauge,
summary or anomaly is compared as it happens.
"""

import importlib
import io
import random
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

from sidecar.core import sessions as new
from sidecar.core.identity import Identity, Source
from sidecar.core.outcome import Outcome

OLD = "a264071"


def before():
    """The package as it was, under the name `earlier`."""
    where = Path(tempfile.mkdtemp()) / "earlier"
    tar = subprocess.run(["git", "archive", OLD, "sidecar/core"], capture_output=True, check=True).stdout
    for member in tarfile.open(fileobj=io.BytesIO(tar)).getmembers():
        if member.name.endswith(".py"):
            text = tarfile.open(fileobj=io.BytesIO(tar)).extractfile(member).read().decode()
            path = where / member.name.removeprefix("sidecar/")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text.replace("sidecar.core", "earlier.core"))
    (where / "__init__.py").write_text("")
    sys.path.insert(0, str(where.parent))
    return importlib.import_module("earlier.core.sessions")


old = before()
old_identity = importlib.import_module("earlier.core.identity")
old_outcome = importlib.import_module("earlier.core.outcome")


def span(ref):
    """A reference of either kind, by its numbers."""
    if ref is None:
        return None
    if isinstance(ref, bytes):
        return int.from_bytes(ref[:16], "big"), int.from_bytes(ref[16:], "big")
    return ref.trace_id, ref.span_id


def plain(value):
    """Any value of either, comparable."""
    if isinstance(value, bytes) or type(value).__name__ == "RequestRef":
        return span(value)
    if isinstance(value, dict):
        return {plain(key): plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    if isinstance(value, str):
        return str(value)
    if hasattr(value, "__dataclass_fields__"):
        return {name: plain(getattr(value, name)) for name in value.__dataclass_fields__ if name != "sampled"}
    return value


def listener(module, log):
    """Everything a listener is told, in order."""

    def event(name):
        return lambda _self, *given: log.append((name, plain(given)))

    names = [name for name in vars(module.SessionListener) if not name.startswith("_")]
    return type("Log", (module.SessionListener,), {name: event(name) for name in names})()


class World:
    """Both managers, driven alike."""

    def __init__(self, seed):
        self.dice = dice = random.Random(seed)
        caps = {
            "session_idle": dice.choice([50, 400, 10**9]),
            "sessions": dice.choice([0, 1, 2, 5, 100]),
            "conversations_per_session": dice.choice([0, 1, 2, 50]),
            "response_chain": dice.choice([0, 2, 1000]),
            "pending_waits": dice.choice([0, 1, 3, 1000]),
            "links": dice.choice([3, 4, 5, 32]),
            "retry_keys": dice.choice([1, 100]),
            "recent": dice.choice([0, 2, 20]),
        }
        self.old_log, self.new_log = [], []
        form = dice.choice(["{session}:{conversation}:{counter}:{timestamp}:{random}", "{random}"])
        numbers = random.Random(seed), random.Random(seed)
        # The older one took an ended request for one in flight that was given the same id: not with a chain.
        bits = 1 if caps["response_chain"] == 0 else 32
        self.old = old.SessionManager(
            random=lambda: numbers[0].getrandbits(bits),
            request_id_format=form,
            limits=old.SessionLimits(**caps),
            clock=lambda: self.now,
        )
        self.new = new.SessionManager(
            random=lambda: numbers[1].getrandbits(bits),
            request_id_format=form,
            limits=new.SessionLimits(**caps),
            clock=lambda: self.now,
        )
        self.old.add_listener(listener(old, self.old_log))
        self.told = dice.random() < 0.8
        if self.told:
            self.new.add_listener(listener(new, self.new_log))
        self.now = 1_000_000
        self.flight = []
        self.responses = []
        self.ended = []
        self.wrapped = []
        self.count = self.arrivals = 0
        self.closing = False

    def identity(self, module, name, session, conversation, supplied, source):
        return module(
            session,
            source,
            conversation,
            conversation_supplied=supplied,
            session_supplied=name,
        )

    def arrive(self):
        dice = self.dice
        self.count += 1
        self.arrivals += 1
        kind = dice.random()
        entry = other = None
        if kind < 0.25 and self.responses:
            response = dice.choice(self.responses[-8:])
            entry, other = self.old.chain(response), self.new.chain(response)
            assert plain(entry) == plain(other)
        if entry is not None:
            session = entry.session_id if dice.random() < 0.95 else "s1"
            conversation = entry.conversation_id if dice.random() < 0.8 else "c1"
            source, named = "response_chain", entry.session_supplied
            if dice.random() < 0.1:
                source, named = "body", True
        elif kind < 0.45:
            session, conversation = f"made-up-{self.count}", "main"
            source, named = dice.choice(["generated", "uninspected"]), False
        else:
            session, conversation = f"s{dice.randrange(4)}", f"c{dice.randrange(3)}"
            source, named = "known_header", True
        supplied, turn, streaming = dice.random() < 0.5, dice.random() < 0.8, dice.random() < 0.5
        trace, span_id = dice.getrandbits(128), dice.getrandbits(64)
        first = self.old.arrive(
            old_identity.Identity(
                session, old_identity.Source(source), conversation, supplied, session_supplied=named
            ),
            at=self.now,
            streaming=streaming,
            turn=turn,
            trace_id=trace,
            span_id=span_id,
            continues=entry,
        )
        ref = trace.to_bytes(16, "big") + span_id.to_bytes(8, "big")
        second = self.new.arrive(
            Identity(session, Source(source), conversation, supplied, session_supplied=named),
            at=self.now,
            streaming=streaming,
            turn=turn,
            ref=ref,
            continues=other,
        )
        for name in ("request_id", "sequence", "tracked", "concurrency", "think_time", "overlap_count"):
            assert getattr(first, name) == getattr(second, name), name
        assert span(first.previous) == span(second.previous)
        assert plain(first.overlaps) == plain(second.overlaps)
        self.flight.append((first, second, turn, self.now))
        if dice.random() < 0.2:
            scope, key = dice.choice(["", session]), f"k{dice.randrange(5)}"
            mine = old.RequestRef(first.request_id, first.sequence, trace, span_id)
            assert span(self.old.seen_before(key, mine, session_id=scope)) == span(
                self.new.seen_before(key, ref, session_id=scope)
            )
        assert span(self.old.last_failed(session, conversation)) == span(
            self.new.last_failed(session, conversation)
        )
        if dice.random() < 0.2:
            self.learn(first, second)

    def learn(self, first, second):
        response = f"resp_{self.count}"
        self.responses.append(response)
        self.old.learn_response(first.request_id, response)
        self.new.learn_response(second, response)

    def settle(self, index):
        dice = self.dice
        first, second, _, arrived = self.flight.pop(index)
        outcome = dice.choice(["completed"] * 4 + ["client_left", "upstream_failed"])
        model = dice.choice(["m1", "m2", None, f"m{dice.randrange(60)}" * dice.choice([1, 90])])
        tokens = dice.choice([None, 0, 5]), dice.choice([None, 0, 7])
        response = None
        if dice.random() < 0.4:
            self.count += 1
            response = f"resp_{self.count}"
            self.responses.append(response)
        at = self.now - dice.choice([0, 0, 0, 0, 30])
        result = old.Result(
            old_outcome.Outcome(outcome), max(0, at - arrived), model, "stop", None, tokens[0], tokens[1]
        )
        mine = self.old.settle(first.request_id, result, at=at, response_id=response)
        assert self.new.settle(
            second,
            Outcome(outcome),
            at=at,
            model=model,
            finish_reason="stop",
            input_tokens=tokens[0],
            output_tokens=tokens[1],
            response_id=response,
        )
        assert mine.distance == second.distance
        assert plain(mine.overlapped_by) == plain(second.overlapped_by)
        assert mine.overlapped_by_rest == second.overlapped_by_rest
        assert mine.wait == second.wait
        assert mine.dropped == second.given_up
        waits = [[span(each.request), each.wait] for each in mine.waits]
        told = [[span(ref), wait] for wait, ref, _ in second.revealed]
        assert waits[len(waits) - len(told) :] == told, (waits, told)
        assert len(waits) - len(told) in (0, 1)
        if len(waits) > len(told):
            assert waits[0] == [span(second.ref), second.wait]
        assert second.session is None is second.conversation
        self.ended.append((second, self.said(second)))
        if response is not None and dice.random() < 0.3:
            assert self.old.claim_usage(response) == self.new.claim_usage(response)

    @staticmethod
    def said(turn):
        """What a turn says once it has ended, for good."""
        kept = {"number", "took", "wanted", "identity", "passed", "overtaken"}
        return {name: plain(getattr(turn, name)) for name in turn.__dataclass_fields__ if name not in kept}

    def compare(self):
        for name in (
            "conversations_active",
            "conversations_busy",
            "overlapping",
            "most_concurrent",
            "sessions_active",
            "next_expiry",
        ):
            assert getattr(self.old, name) == getattr(self.new, name), name
        assert plain(self.old.get_session_stats()) == plain(self.new.get_session_stats())
        if self.told:
            assert self.old_log == self.new_log, next(
                (a, b) for a, b in zip(self.old_log, self.new_log, strict=False) if a != b
            )
            self.old_log.clear()
            self.new_log.clear()

    def views(self):
        assert plain(self.old.live_sessions()) == plain(self.new.live_sessions())
        for one in self.old.live_sessions():
            mine, other = (
                plain(self.old.live_session(one.session_id)),
                plain(self.new.live_session(one.session_id)),
            )
            assert mine == other, (mine, other)
            ours = self.old.get_active_requests(one.session_id), self.new.get_active_requests(one.session_id)
            assert plain(ours[0]) == plain(ours[1])

    def step(self, busy):
        dice = self.dice
        self.now += dice.choice([0, 1, 5, 20, 60])
        if dice.random() < busy or not self.flight:
            self.arrive()
        else:
            self.settle(dice.randrange(len(self.flight)) if dice.random() < 0.6 else 0)
        if self.flight and not self.closing and dice.random() < 0.15:
            first, second, *_ = dice.choice(self.flight)
            at = self.now - dice.choice([0, 0, 40])
            self.old.passed(first.request_id, at)
            self.new.passed(second, at)
        if self.flight and dice.random() < 0.05:
            first, second, *_ = dice.choice(self.flight)
            self.old.learn_streaming(first.request_id)
            self.new.learn_streaming(second)
        if dice.random() < 0.03:
            by = dice.choice([5, 300])
            self.now += by
            self.old.stood_still(by)
            self.new.stood_still(by)
        if dice.random() < 0.1:
            most = dice.choice([None, 1, 2])
            assert self.old.expire(self.now, most=most) == self.new.expire(self.now, most=most)
        if dice.random() < 0.1:
            given = f"s{dice.randrange(4)}", dice.choice([None, "c1", "bad\n"]), dice.random() < 0.5
            ids = self.old.generate_request_id(*given), self.new.generate_request_id(*given)
            assert ids[0] == ids[1]
            self.arrivals += 1
            self.wrapped.append(ids[0])
        if self.wrapped and dice.random() < 0.15:
            ended = self.wrapped.pop(dice.randrange(len(self.wrapped)))
            for manager in (self.old, self.new):
                if self.count % 3:
                    manager.complete_request(ended, "stop")
                else:
                    manager.fail_request(ended, "why")
        self.compare()
        if dice.random() < 0.05:
            self.views()


def main(worlds):
    """Runs so many worlds, and says how much was compared."""
    arrivals = 0
    for seed in range(worlds):
        world = World(seed)
        busy = world.dice.choice([0.4, 0.5, 0.55, 0.7])
        try:
            for _ in range(world.dice.choice([60, 300, 900])):
                world.step(busy)
            # What had been handed over and not ended at a shutdown was told of by neither of its two ends.
            for index in reversed(range(len(world.flight))):
                if world.flight[index][1].passed:
                    world.settle(index)
            while world.old.sessions_active:
                world.closing = True
                for manager in (world.old, world.new):
                    manager.shutdown(world.now, most=world.dice.choice([3]))
                world.compare()
                if world.flight and world.dice.random() < 0.3:
                    world.settle(0)
            while world.flight:
                world.settle(0)
            world.compare()
            world.views()
            for turn, said in world.ended:
                assert world.said(turn) == said, (said, world.said(turn))
        except BaseException:
            print("seed", seed)
            raise
        arrivals += world.arrivals
    print(f"equal on {arrivals} arrivals in {worlds} worlds")


if __name__ == "__main__":
    main(int(sys.argv[1]))
