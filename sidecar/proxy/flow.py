"""One request on its way through: from its head, by session and upstream, to its one settling.

Owns the order of the steps and what ends them: refusal, departure, failure, timers, shutdown. It moves no
payload itself (`bodies.py`) and parses nothing.
"""

import asyncio
from collections.abc import Callable
from functools import partial

from sidecar import apis
from sidecar.core.exchange import ConnectTiming, Exchange
from sidecar.core.facts import Anomaly, Phase, RequestFacts
from sidecar.core.identity import HeadIdentity
from sidecar.errors import (
    DrainingError,
    ExhaustedError,
    InternalError,
    OverloadError,
    ShutdownError,
    SidecarError,
    UpstreamFailedError,
    UpstreamWord,
)
from sidecar.proxy import wire
from sidecar.proxy.bodies import Answer, Upload
from sidecar.proxy.connect import DialError
from sidecar.proxy.loop import each_guarded, guarded, made, outermost
from sidecar.proxy.observer import Observer, observer_for, small_read
from sidecar.proxy.request_reader import NO_HEAD, Inbound
from sidecar.proxy.shared import Client, Shared, blame
from sidecar.proxy.timers import Deadlines
from sidecar.proxy.upstream_side import AT_ONCE, READ, UpstreamConnection


class Flow:
    """Drives one exchange. `done` is True from the moment nothing more of it can pass."""

    _side: UpstreamConnection | None = None
    _task: "asyncio.Task[tuple[UpstreamConnection, ConnectTiming]] | None" = None
    _replay: bytes | bytearray | None = None
    _steps: "apis.Steps[RequestFacts] | apis.Steps[None] | None" = None
    _head: HeadIdentity | None = None
    _deadlines: Deadlines | None = None
    _read_at = _begun = 0
    _slot = _closes = _told = _learnt = _unwatched = done = False
    working = False
    """A large body is being read: of the request before it goes on, or of the answer once it has passed."""

    def __init__(self, shared: Shared, client: Client, inbound: Inbound) -> None:
        head = inbound.head or NO_HEAD
        self._shared = shared
        self._client = client
        self.inbound = inbound
        self._target = target = inbound.target or shared.routes.target(head.method, head.target)
        route, upstream = target.route, target.upstream
        trace = shared.telemetry.begin(head, route, inbound.start)
        self.exchange = exchange = Exchange(
            *(inbound.start, head, trace, route, upstream),
            head_at=inbound.read_at,
            overhead_loop=inbound.waited,
            correction=shared.wall.look(),
        )
        self._upload = Upload(inbound, shared)
        self._answer = Answer(exchange)

    # From the head to the upstream.

    def begin(self) -> None:
        """The head is whole and it is this request's turn."""
        refusal = self.inbound.refusal or self._admit()
        if refusal is not None:
            self.refuse(refusal)
            return
        self._begun = self._client.read_at
        if self.inbound.expects_continue:
            self._client.expect_body(self.inbound)
        if self._upload.state != "held":
            self._go_on(self._client.read_at, inspected=self._upload.state == "none")
        elif not self._read_whole():
            self._head = self._shared.joining.try_at_head(self.exchange, self._shared.clock())
            self._hold()
            if not self.exchange.asked:
                self._arm()

    def _admit(self) -> SidecarError | None:
        admission = self._shared.admission
        if admission.draining:
            return DrainingError()
        if self.exchange.upstream is None:
            return self._shared.routes.unknown(self._target.path)
        if admission.active >= self._shared.limits.requests:
            return OverloadError(self._shared.limits.requests)
        admission.active += 1
        self._slot = True
        return None

    def upload(self) -> None:
        """More of the body has come, or its end."""
        if self.done:
            return
        if self.inbound.refusal is not None:
            self._malformed(self.inbound.refusal)
        elif self._upload.state == "held" and not self.exchange.asked:
            if not self.working and not self._read_whole():
                self._hold()
        elif self._side is not None:
            self._write(self._side)
        elif self._upload.wait():
            self._client.pause()

    def _read_whole(self) -> bool:
        """Reads a body that has come as a whole, at once, if that takes no more than a moment."""
        facts = self._upload.whole(self.exchange.route, self._shared.body_fields)
        if facts is not None:
            self._go_on(self._client.read_at, facts, inspected=True)
        return facts is not None

    def _hold(self) -> None:
        """What has come of the body is held back until all of it has, and then read."""
        upload, read_at = self._upload, self._client.read_at
        if not upload.hold():
            self._go_on(read_at, inspected=False)
        elif self.inbound.ended:
            steps = upload.read(self.exchange.route, self._shared.body_fields)
            if upload.large:
                self._in_steps(steps, read_at)
            else:
                self._go_on(read_at, apis.at_once(steps), inspected=upload.state == "read")

    def _go_on(self, needed: int, facts: RequestFacts | None = None, *, inspected: bool) -> None:
        """It joins its conversation and goes on: head and body, the last of which came at `needed`, have told all."""
        exchange, shared = self.exchange, self._shared
        if facts is not None:
            exchange.request = facts
        shared.joining.join(exchange, shared.clock(), self._head, inspected=inspected)
        now = shared.clock()
        exchange.needed, exchange.asked = needed, now
        exchange.overhead_before = now - needed
        side = shared.pool.take(exchange.upstream or exchange.origin, now)
        if side is None:
            self._dial()
        else:
            exchange.connect = ConnectTiming("reused", now, now)
            self._send(side)

    def _in_steps(self, steps: "apis.Steps[RequestFacts] | apis.Steps[None]", read_at: int) -> None:
        """Does in several turns what would hold others up in one."""
        self._steps, self._read_at = steps, read_at
        self.working = True
        self._client.set_deadline(0)
        self._shared.steps.add(self)

    @outermost
    def work(self) -> None:
        """The next step of reading a large body."""
        if self.done or self._steps is None:
            self.working = False
            return
        try:
            next(self._steps)
        except StopIteration as end:
            self.working = False
            if end.value is not None:
                self._go_on(self._read_at, end.value, inspected=self._upload.state == "read")
            else:
                self._answer_over(self._read_at)

    def _dial(self) -> None:
        shared = self._shared
        self._upload.wait()
        self._task = shared.loop.create_task(shared.dial(self.exchange.origin))
        self._task.add_done_callback(self._dialed)
        self._client.set_deadline(shared.clock() + shared.limits.connect)

    @outermost
    def _dialed(self, task: "asyncio.Task[tuple[UpstreamConnection, ConnectTiming]]") -> None:
        self._task = None
        if task.cancelled():
            return
        error = task.exception()
        if isinstance(error, DialError):
            self._upstream_failed(error.word, str(error))
            return
        if isinstance(error, ExhaustedError):
            self.exchange.anomalies.append(Anomaly.OUT_OF_RESOURCES)
            self._fail(error, Phase.CONNECT)
            return
        side, timing = task.result()
        if self.done:
            side.close()
            return
        self.exchange.connect = timing
        self._send(side)

    def _send(self, side: UpstreamConnection) -> None:
        exchange, shared, upload = self.exchange, self._shared, self._upload
        self._side, method = side, exchange.head.method
        side.begin(self, method)
        head = wire.request_head(exchange.head, self._target, exchange.trace.outbound(), self.inbound.passing)
        body = upload.pass_on()
        if self._replay:
            body = self._replay + body
        self._replay = upload.again(body) if side.used and method != "POST" else None
        if len(body) > READ:
            side.write(head)
            side.write(body)
        else:
            side.write(head + body)
        if upload.counted:
            upload.release()
        blocked = self._deadlines is not None and self._deadlines.upload_blocked_since
        if blocked:
            upload.wait_on(body, side.hidden)
        elif self._client.paused:
            self._client.resume()
        exchange.sent = sent = shared.clock()
        if upload.finished and not blocked:
            exchange.request_end = sent
            self._client.set_deadline(sent + shared.limits.first_byte)
        else:
            exchange.request_end = 0
            self._arm()

    def _write(self, side: UpstreamConnection) -> None:
        data = self._upload.pass_on()
        if data:
            side.write(data)
            if self._timers.upload_blocked_since:
                self._upload.wait_on(data, side.hidden)
            if self._replay is not None:
                self._replay = self._upload.again(self._replay + data)
        if self._upload.finished and not self.exchange.request_end:
            if not self._timers.upload_blocked_since:
                self.exchange.request_end = self._shared.clock()
            self._arm()

    # From the upstream to the client.

    def answer_read(self, at: int) -> None:
        """Something of the answer was read; it is written on first, then watched."""
        side = self._side
        if self.done or side is None or (self.working and self._answer.began):
            return
        exchange, answer, shared = self.exchange, self._answer, self._shared
        exchange.overhead_loop += shared.turn.waited
        began = answer.began
        out, pieces = answer.take(side, at, close=not (began or self._keep))
        if out:
            self._replay = None
            self._client.write(out)
            now = shared.clock()
            exchange.overhead_after += now - at
            if answer.began and not began:
                exchange.headers_at = now
                if answer.endless:
                    self._client.ends_answer()
                if pieces or side.ended or not side.small_json:
                    self._choose_watcher(side, pieces, at)
                else:
                    self._unwatched = True
                if not side.ended:
                    self._arm()
        if began and self._unwatched:  # now it is known whether the body comes as a whole
            self._choose_watcher(side, pieces, at)
        if pieces:
            self._observe(b"".join(pieces), at)
        else:
            answer.quiet_since = at
            if not answer.began:
                self._arm()  # a part of its head may have come
        if side.malformed:
            self._upstream_failed("malformed", side.malformed)
        elif side.ended:
            steps = None if answer.observer is None else answer.reading()
            if steps is None:
                self._answer_over(at)
            else:
                shared.joining.passed(exchange, shared.clock())
                self._in_steps(steps, at)
        elif not self._client.writable:
            self.client_blocked()

    def chunk_read(self, chunk: bytes, piece: bytes, at: int) -> None:
        """One whole chunk of an answer that is under way was read; it goes on as it is where its body goes in chunks."""
        if self.done:
            return
        exchange, client, shared = self.exchange, self._client, self._shared
        exchange.overhead_loop += shared.turn.waited
        client.write(chunk if self._answer.chunked else piece)
        exchange.overhead_after += shared.clock() - at
        self._observe(piece, at)
        if not client.writable:
            self.client_blocked()

    def _observe(self, piece: bytes, at: int) -> None:
        """Counts a piece of the body that has been written on, and shows it to what watches."""
        exchange, answer = self.exchange, self._answer
        exchange.last_byte = answer.quiet_since = at
        exchange.stream.bytes += len(piece)
        observer = answer.observer
        if observer is not None:
            observer.feed(piece, at)
            if not self._learnt and exchange.response.id is not None:
                self._learnt = True
                self._shared.joining.answered(exchange)

    @property
    def _passed(self) -> bool:
        """True while a large answer is read that has passed as a whole: nothing can happen to it any more."""
        return self.working and self._answer.began

    def _answer_over(self, at: int) -> None:
        """The answer, the last of which came at `at`, has told what it can."""
        if self._answer.observer is not None:
            self._answer.ended(at)
        self.exchange.last_byte = at
        self._finish(self._shared.clock(), partial(self.exchange.answer_ended, at))

    def _choose_watcher(self, side: UpstreamConnection, pieces: list[bytes], at: int) -> None:
        """Reads the answer if it is there as a whole and small; any other is watched from these pieces on."""
        exchange, shared, head = self.exchange, self._shared, side.head
        self._unwatched = False
        if head is None:
            return
        if side.ended and len(pieces) == 1:
            read = made(shared.report, small_read, exchange, head.headers, pieces[0], shared)
            if read is None:
                exchange.anomalies.append(Anomaly.ANSWER_NOT_READ)
            if read is not False:
                return
        if not wire.bodiless(exchange.head.method, head.status):
            self.watch(observer_for(exchange, head.headers, shared, self))
        if exchange.streams:
            self.streaming(at)

    def watch(self, observer: Observer | None) -> None:
        """What is shown the answer from now on."""
        self._answer.watch(observer)

    def streaming(self, at: int) -> None:
        """The answer is a stream."""
        self.exchange.stream.last_event = at
        self._shared.telemetry.streaming(self.exchange)
        self._arm()

    def upstream_lost(self, error: Exception | None) -> None:
        """The upstream's connection is gone before the answer's end."""
        if self.done or self._passed:
            return
        exchange, side = self.exchange, self._side
        if side is not None and side.used and self._replay is not None:
            self._resend(side)
            return
        now = self._shared.clock()
        if exchange.first_byte:
            cut = UpstreamFailedError("cut_short", "the answer broke off before its end")
            self._end(cut, now, partial(exchange.answer_cut, now))
        elif error is None:
            self._upstream_failed("connection_reset", "the upstream closed the connection without an answer")
        else:
            self._upstream_failed("connection_reset", f"the upstream broke the connection: {error}")

    def _resend(self, side: UpstreamConnection) -> None:
        """A pooled connection ended before anything of an answer could pass: once more, on a fresh one."""
        exchange = self.exchange
        exchange.first_byte = exchange.sent = exchange.request_end = 0
        exchange.connect = None
        exchange.resends += 1
        exchange.anomalies.append(Anomaly.CONNECTION_RESENT)
        self._side = None
        side.close()
        if self._deadlines is not None:
            self._deadlines.upload_moves(self._shared.clock())
        self._dial()

    # Back-pressure, both ways.

    def client_blocked(self) -> None:
        """The client takes no more: the upstream's reading pauses."""
        if self._side is not None and not self.done:
            self._answer.blocked(self._shared.clock())
            self._side.pause()
            self._arm()

    def client_ready(self) -> None:
        """The client takes more."""
        if self._side is not None and not self.done:
            self._answer.ready(self._shared.clock())
            self._side.resume()
            self._arm()

    def upstream_blocked(self) -> None:
        """The upstream takes no more of the upload."""
        if self._side is not None:
            self._timers.upload_blocked(self._shared.clock(), self._side.unsent)
            self._arm()
        self._client.pause()

    def upstream_ready(self) -> None:
        """The upstream takes more."""
        now = self._shared.clock()
        self._timers.upload_moves(now)
        if self._upload.finished:
            self.exchange.request_end = now
        self._upload.release()
        self._client.resume()
        self._arm()

    # Timers.

    @property
    def _timers(self) -> Deadlines:
        """Made when they are asked for: most requests are over before."""
        timers = self._deadlines
        if timers is None:
            timers = Deadlines(self.exchange, self.inbound, self._answer, self._shared.limits, self._begun)
            self._deadlines = timers
        return timers

    @property
    def _due_at(self) -> int:
        """When the next timer is due."""
        return self._timers.next(self._client.heard_at, connected=self._side is not None)

    def _arm(self) -> None:
        if not self.done and not self.working:
            self._client.set_deadline(self._due_at)

    def due(self, now: int) -> None:
        """A deadline may have passed at `now`; says which, or waits on. What had come and waits to be read counts."""
        side, unread = self._side, 0
        if side is not None:
            self._timers.upload_left(now, side.unsent)
            unread = 1 + side.backlogs if side.working else 0
        if self._answer.blocked_since:
            self._answer.took_at = self._client.took_at(now)
        if self.done or now < (due_at := self._due_at) or self._timers.spares(due_at, unread):
            self._arm()
            return
        passed = self._timers.passed(now, connected=side is not None)
        if passed is not None:
            self._fail(*passed)
            return
        if self._timers.stalled(now):
            self._shared.telemetry.stalled(self.exchange, now)
        self._arm()

    # Endings.

    def _fail(self, error: SidecarError, phase: Phase | None) -> None:
        """Ends with an error of ours, unless an earlier fact has decided the outcome."""
        if self.done:
            return
        if self._passed:
            self._answer_over(self._read_at)
            return
        now, decide = self._shared.clock(), self.exchange.decide
        fact = partial(decide, error.outcome, now, phase=phase, error_type=error.word, message=error.message)
        self._end(error, now, fact)

    def refuse(self, error: SidecarError) -> None:
        """It goes no further, and joins no conversation."""
        self._fail(error, Phase.HEAD)

    def _malformed(self, error: SidecarError) -> None:
        """The rest of the body is not HTTP. A request that has joined its conversation leaves it by this."""
        if self.exchange.turn is None:
            self.refuse(error)
        elif not (self.done or self._passed):
            now = self._shared.clock()
            self._end(error, now, partial(self.exchange.client_left, now))

    def _upstream_failed(self, word: UpstreamWord, message: str) -> None:
        if not self.done:
            now = self._shared.clock()
            fact = partial(self.exchange.upstream_failed, now, word, message)
            self._end(UpstreamFailedError(word, message), now, fact)

    @outermost
    def client_gone(self) -> None:
        """The client has left; the upstream is told by closing its connection."""
        if self.done or self._passed:
            return
        now = self._shared.clock()
        self._finish(now, partial(self.exchange.client_left, now), cut=True)

    @outermost
    def abandoned(self, error: SidecarError | None = None) -> None:
        """Its turn never came: the client left before, or its connection ends from our side, as `error` says."""
        if error is not None:
            self.exchange.decide(error.outcome, self._shared.clock(), phase=Phase.HEAD, error_type=error.word)
        self.client_gone()

    @outermost
    def shut_down(self) -> None:
        """The drain has ended and this request has not. What it has passed on is still read, and comes first."""
        if not self._passed:
            self._fail(ShutdownError(), Phase.MID_STREAM if self._answer.began else Phase.BEFORE_HEADERS)

    @outermost
    def give_up(self) -> None:
        """No time is left to read what has passed: it settles by what is known."""
        self._answer.stop_watching()
        self._fail(ShutdownError(), Phase.MID_STREAM)

    def broke(self, error: Exception) -> None:
        """A bug of ours: told once, and the request ends by it, if with no answer of our own then without one."""
        first = not self._told
        self._tell(error)
        if first:
            guarded(self.broke, self._fail, InternalError(), None)
        now = self._shared.clock()
        self._finish(now, self._blame, cut=True)
        self._settle(now, self._blame)

    def _tell(self, error: Exception) -> None:
        """Says that a bug has struck; those that it leads to are not told."""
        if not self._told:
            self._told = True
            self._shared.report(error)

    def _blame(self) -> None:
        """The bug decides, if nothing has."""
        blame(self.exchange, self._shared.clock())

    @property
    def _keep(self) -> bool:
        """True when the connection may carry another request after this one."""
        inbound = self.inbound
        over = inbound.broken or self._closes or self._shared.admission.draining
        return inbound.keep_alive and not over and not (inbound.expects_continue and inbound.hesitates)

    def _end(self, error: SidecarError, now: int, fact: Callable[[], object]) -> None:
        """Ends with an error of ours: as an answer while there is none, else by cutting it off."""
        self._closes = error.closes
        guarded(self._tell, self._shared.joining.identify, self.exchange)
        if not self._answer.began:
            self.exchange.status = error.status
            self._client.write(self._shared.error_answer(self.exchange, error, close=not self._keep))
        self._finish(now, fact, cut=self._answer.began)

    def _finish(self, now: int, fact: Callable[[], object], *, cut: bool = False) -> None:
        """Parts with both sides at once, and settles by `fact` unless what has passed says otherwise."""
        if self.done:
            return
        self.done = True
        if self._slot:
            self._shared.admission.active -= 1
        if self._task is not None:
            self._task.cancel()
        told = self._told
        guarded(self._tell, self._part_with_upstream, now)
        guarded(self._stuck, self._client.flow_done, self.inbound, self._keep, cut, now)
        if self._told is not told:
            fact = self._blame
        unseen = self._answer.observer is not None or self._answer.blocked_since
        guarded(self.broke, self._close_answer if unseen else self._settle, now, fact)

    def _stuck(self, error: Exception) -> None:
        """A bug keeps the client's connection from going on."""
        self._tell(error)
        self._client.drop()

    def _close_answer(self, now: int, fact: Callable[[], object]) -> None:
        self._answer.close(now, partial(self._settle, now, fact))
        if not self.exchange.settled:
            self._shared.joining.passed(self.exchange, now)

    def _settle(self, now: int, fact: Callable[[], object]) -> None:
        """All that has passed has been looked at: `fact` decides if nothing in it has, and the books are closed."""
        shared = self._shared
        if self in shared.flows:
            shared.flows.discard(self)
            if shared.admission.draining:
                shared.drained()
            each_guarded(self._tell, fact, *shared.joining.leaving(self.exchange, partial(self._freeze, now)))

    def _freeze(self, now: int) -> None:
        """The books of this request are closed; if what was to decide has not, a bug of ours does."""
        if self.exchange.verdict is None:
            self._blame()
        self.exchange.settle(now)

    def _part_with_upstream(self, now: int) -> None:
        """Nothing more goes to it, and nothing more of it is wanted; the upload ends, whatever becomes of that."""
        side, self._side = self._side, None
        upload = self._upload
        try:
            if side is not None and side.odd:
                self.exchange.anomalies.append(Anomaly.ANSWER_ODD_HTTP)
            unsent = side is not None and upload.passed > AT_ONCE and side.unsent
            if side is not None and side.reusable and upload.finished and not unsent:
                side.finish()
                self._shared.pool.put(side, now)
                side = None  # it is kept
        finally:
            if side is not None:
                side.close()
            upload.close(self.exchange)
