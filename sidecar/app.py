"""The composition root: makes every room from the settings, ties them together, and ends them in order.

Owns start, the timers that belong to nobody else, signals and the drain. It decides nothing about a
request.
"""

import asyncio
import contextlib
import gc
import logging
import resource
import signal
import sys
import threading
import traceback
import warnings
from functools import partial
from pathlib import Path

import msgspec
import uvloop

from sidecar.admin import Port, create_admin_app, create_health_app, serve
from sidecar.admin.live import LiveView, requests_of
from sidecar.admin.prometheus import prometheus_text
from sidecar.admin.view import Rendering
from sidecar.core.clock import SECOND, SystemWall
from sidecar.core.exchange import Exchange
from sidecar.core.facts import Anomaly
from sidecar.core.sessions import SessionLimits, SessionManager
from sidecar.core.shown import mask
from sidecar.live import Board, Facts, ended
from sidecar.proxy.relay import Relay
from sidecar.proxy.shared import Shared
from sidecar.record import RecordWriter
from sidecar.settings import Address, Settings
from sidecar.telemetry import names as n
from sidecar.telemetry import otel_settings
from sidecar.telemetry.exporters import STDERR, Stream
from sidecar.telemetry.ledger import LINES, Ledger, Signal
from sidecar.telemetry.logs import ERROR, INFO, WARNING, LibraryHandler, LineQueue
from sidecar.telemetry.measures import observe_process
from sidecar.telemetry.metric_store import MetricStore
from sidecar.telemetry.metrics import SCHEMA_URLS, metrics_of
from sidecar.telemetry.pipeline import build_pipeline, record_factory, span_factory
from sidecar.telemetry.recorder import Recorder
from sidecar.version import VERSION
from sidecar.ways_out import EgressRules, Trust

FLUSH_RESERVE = 5.0
"""Seconds of `SHUTDOWN_TIMEOUT` that are kept for the telemetry's last flush."""

_LAST_LINES = 1.0
"""Seconds that the last lines may take, of a stream that stands still."""
_LAST_RECORDS = 1.0
"""Seconds that the last recorded requests may take."""
_LINES_SHARE = 0.2
_RECORDS_SHARE = 0.2
"""Of the flush's seconds, what is kept for each of them at most."""
_ROOM_SHARE = 0.2
"""Likewise, for which what ends with the sessions waits at least until there is room among the spans."""
_FOR_ROOM = 0.02
"""Seconds after which it is looked again whether there is."""
_PUT_OFF = 30 * SECOND
"""How long the end of idle sessions is put off until there is."""

_LAG_EVERY = SECOND // 10
_FILES = 1 << 16
"""Open files that are enough for the default `MAX_REQUESTS` three times over. More would only cost memory."""

_EXPIRE_AT_MOST_EVERY = 1.0
_LONG_AT_MOST_EVERY = 5.0
_END_AT_MOST = 50
"""Sessions and conversations ended at a time, so that the event loop goes on turning."""
_AT_ONCE = 0.001

_COLLECTION = 3_000
"""More objects than before after which Python collects garbage by itself."""
_REQUESTS_TO_COLLECT = 100
"""Requests after which garbage is collected anyhow: as many objects are forgotten as are kept, so that Python would not notice, and
what has stayed of a thousand requests takes several milliseconds to look through."""
_COLLECT_EVERY = 0.1


class Sidecar:
    """One running sidecar. `start` once, then `stop` once.

    `sessions` replaces the session manager (it must follow its interface); for tests and embedders.
    """

    def __init__(self, settings: Settings, *, sessions: SessionManager | None = None) -> None:
        self._settings = settings
        self._wall = SystemWall()
        self._wall.jumped = self._wall_jumped
        self._wall.stood_still = self._stood_still
        self._clock = self._wall.clock
        self._started_at = self._clock()
        self._config = otel_settings.read(settings.environ, SCHEMA_URLS[settings.semconv])
        self._trust = Trust(settings.environ)
        self._store = self._metric_store()
        ledger = Ledger()
        self._line_queue = LineQueue(
            settings.log_format,
            stream=Stream(STDERR),
            account=ledger.account(LINES),
            size=self._config.queues[Signal.LOGS].size,
            clock=self._clock,
        )
        lines = self._line_queue.lines
        self._pipeline = build_pipeline(
            self._config,
            trust=self._trust,
            ledger=ledger,
            store=self._store,
            clock=self._clock,
            logger=lines.logger,
        )
        self.recorder = Recorder(
            settings=settings,
            pipeline=self._pipeline,
            store=self._store,
            clock=self._clock,
            wall=self._wall,
            sampler=self._config.sampler,
            propagators=self._config.propagators,
            lines=lines,
            spans=span_factory(self._config),
            records=record_factory(self._config),
        )
        self.sessions = sessions or self._session_manager()
        self.sessions.add_listener(self.recorder.listener)
        self.recorder.attach(self.sessions)
        self.recorder.expect(
            (upstream.name for upstream in settings.all_upstreams), histories=settings.history != "off"
        )
        if self._store is not None:
            observe_process(self._store)
        self._libraries = LibraryHandler(self.recorder.log)
        self._relay: Relay | None = None
        self._record: RecordWriter | None = None
        self._ports: list[Port] = []
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._stopping = asyncio.Event()

    def _metric_store(self) -> MetricStore | None:
        """What keeps the metrics, if anybody reads them."""
        scraped = self._settings.prometheus
        if not scraped and not self._config.exports(Signal.METRICS):
            return None
        store = MetricStore(
            metrics_of(self._settings.semconv),
            clock=self._clock,
            wall=self._wall,
            exemplar_filter=self._config.exemplar_filter,
        )
        if scraped:
            _ = store.scrape
        return store

    def _session_manager(self) -> SessionManager:
        settings = self._settings
        return SessionManager(
            clock=self._clock,
            wall=self._wall,
            request_id_format=settings.request_id_format,
            limits=SessionLimits(
                session_idle=round(settings.session_idle * SECOND),
                sessions=settings.session_limit,
                conversations_per_session=settings.conversations_per_session,
                response_chain=settings.response_chain_limit,
                unnamed=settings.history_limit,
            ),
        )

    async def start(self) -> None:
        """Opens the ports: data first, then admin, then health.

        Raises:
            CannotListenError: one of them cannot be had; nothing stays open.
        """
        settings = self._settings
        loop = asyncio.get_running_loop()
        self._line_queue.start()
        shared = Shared(
            settings,
            sessions=self.sessions,
            telemetry=self.recorder,
            clock=self._clock,
            wall=self._wall,
            report=self._report,
            trust=self._trust,
        )
        relay = self._relay = Relay(shared, settings.listen)
        try:
            data = relay.start()
            admin = await self._open_admin(relay, data)
        except BaseException:
            await relay.drain(0)
            await self._close_ports()
            await self._line_queue.shutdown(_LAST_LINES)
            raise
        logging.getLogger().addHandler(self._libraries)
        self._pipeline.start(loop)
        self.recorder.start()
        self._sample_lag(self._clock())
        self._expire()
        self._look_for_long(round(settings.long_running * SECOND))
        self._say(n.LISTENING, INFO, data=str(data), admin=str(admin), version=VERSION)
        self._say_ways_out()
        for line in (*self._config.lines(), *self._trust.ignored):
            self._say(n.TELEMETRY_NOTE, WARNING, message=line)

    def _say_ways_out(self) -> None:
        rules = EgressRules(self._settings.environ)
        for upstream in self._settings.all_upstreams:
            proxy = rules.proxy_for(upstream.scheme, upstream.host, upstream.port)
            url = f"{upstream.scheme}://{Address(upstream.host, upstream.port)}"
            if upstream.base_path.endswith((b"/v1", b"/v1beta")):
                path = upstream.base_path.decode()
                note = f"the upstream's path {path} is put before the request's: {path}/... is asked for as {path * 2}/..."
                self._say(n.WAY_OUT, WARNING, upstream=upstream.name, message=note)
            self._say(n.WAY_OUT, INFO, upstream=upstream.name, to=url, by=str(proxy or "direct"))
        for endpoint, way in self._config.ways_out().items():
            self._say(n.WAY_OUT, INFO, collector=endpoint, by=way)
        unread = ("NO_PROXY: not understood: " + ", ".join(rules.unread)[:200],) if rules.unread else ()
        for line in (*rules.ignored, *unread):
            self._say(n.WAY_OUT, WARNING, message=line)

    async def stop(self) -> None:
        """Drains, ends all sessions, flushes telemetry; takes `SHUTDOWN_TIMEOUT` at most, while the process runs."""
        loop = asyncio.get_running_loop()
        total = self._settings.shutdown_timeout
        deadline = loop.time() + total
        reserve = min(FLUSH_RESERVE, total / 2)
        self._say(n.DRAINING, INFO, in_flight=self.recorder.requests_in_flight)
        if self._relay is not None:
            await self._relay.drain(total - reserve)
        for timer in self._timers.values():
            timer.cancel()
        await self.recorder.finish(reserve)
        await self._end_sessions(max(loop.time() + reserve * _ROOM_SHARE, deadline - reserve))
        for_lines = min(_LAST_LINES, reserve * _LINES_SHARE)
        for_records = min(_LAST_RECORDS, reserve * _RECORDS_SHARE) if self._record is not None else 0.0
        # Also if the process stood still past its deadline.
        left = max(reserve * (1 - _ROOM_SHARE), deadline - loop.time())
        await self._pipeline.shutdown(left - for_lines - for_records)
        self.recorder.close()
        if self._record is not None:
            self._record.close(for_records)
        await self._close_ports()
        if self._relay is not None:
            await self._relay.close()
        await self._line_queue.flush(for_lines / 2)
        self._say_stopped()
        await self._line_queue.shutdown(max(for_lines / 2, min(_LAST_LINES, deadline - loop.time())))

    async def _end_sessions(self, until: float) -> None:
        """All of them end, and their replays go, as there is room for their spans.

        After `until` (the loop's time) sessions end at once, and replays that still wait are `dropped`.
        """
        loop = asyncio.get_running_loop()
        while self.sessions.sessions_active:
            full = loop.time() < until and not self._pipeline.roomy
            if not full:
                self.sessions.shutdown(self._clock(), most=_END_AT_MOST)
            await asyncio.sleep(_FOR_ROOM if full else 0)
        while loop.time() < until and not self.recorder.make_replays():  # noqa: ASYNC110 - room comes by a thread
            await asyncio.sleep(_FOR_ROOM)
        self.recorder.make_replays(most=0)

    def _say_stopped(self) -> None:
        """What it saw, and what became of the telemetry: JSON, in the form of `GET /stats`."""
        self._say(
            n.STOPPED,
            INFO,
            requests=msgspec.json.encode(requests_of(self.recorder)).decode(),
            sessions=self.sessions.get_session_stats().total_sessions,
            telemetry=msgspec.json.encode(self._pipeline.ledger.snapshot()).decode(),
        )

    def request_stop(self) -> None:
        """Begins the drain, from a signal or the admin port; a second call changes nothing."""
        self._stopping.set()

    async def serve(self) -> None:
        """Starts, serves until asked to stop, and stops. The first signal drains, a second one kills."""
        loop = asyncio.get_running_loop()

        def first_signal() -> None:
            for number in asking:
                loop.remove_signal_handler(number)
                # A terminal that closes says so twice: by its shell, and by the system.
                signal.signal(number, signal.SIG_IGN if number is signal.SIGHUP else signal.SIG_DFL)
            self.request_stop()

        asking = [signal.SIGTERM, signal.SIGINT]
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # not by `nohup`: its terminal may close
            asking.append(signal.SIGHUP)
        for number in asking:
            loop.add_signal_handler(number, first_signal)
        # They would write to stderr past the log, texts and all.
        warnings.showwarning = self._libraries.warned
        sys.unraisablehook = threading.excepthook = self._libraries.raised
        await self.start()
        gc.callbacks.append(_keep_what_stays)
        gc.set_threshold(_COLLECTION)
        gc.collect()
        self._collect(self.recorder.requests_settled)
        await self._stopping.wait()
        await self.stop()

    async def _open_admin(self, relay: Relay, data: Address) -> Address:
        settings = self._settings
        view = LiveView(
            manager=self.sessions,
            counts=self.recorder,
            in_flight=relay.exchanges,
            ledger=self._pipeline.ledger,
            text=self._metrics_text,
            stop=self.request_stop,
            draining=lambda: relay.draining or self._stopping.is_set(),
            clock=self._clock,
            wall=self._wall,
            started_at=self._started_at,
        )
        board = Board(
            limit=settings.live_requests,
            since=lambda: self._clock() - round(settings.live_age * SECOND),
            in_flight=lambda: (one for one in relay.exchanges() if not self.recorder.quiet(one)),
            figures=view.figures,
            about={
                "version": VERSION,
                "data": f"http://{data.reachable}",
                "links": settings.trace_links,
                "age_s": settings.live_age,
                "live": True,
            },
            now=lambda: (self._clock() + self._wall.correction) // 1000,
        )
        record = self._record = self._record_writer()

        def keep(exchange: Exchange, facts: Facts, alike: Facts) -> None:
            one = ended(exchange, facts, alike)
            board.keep(one)
            if record is not None:
                record.put(one)

        self.recorder.keep = keep
        app = create_admin_app(
            view,
            board,
            listen=settings.admin_listen,
            token=settings.admin_token,
            prometheus=settings.prometheus,
        )
        short = partial(self.recorder.anomaly, Anomaly.OUT_OF_RESOURCES)
        admin = await serve(app, settings.admin_listen, setting="SIDECAR_ADMIN_LISTEN", short=short)
        self._ports.append(admin)
        if settings.health_listen is not None:
            health = await serve(
                create_health_app(view), settings.health_listen, setting="SIDECAR_HEALTH_LISTEN", short=short
            )
            self._ports.append(health)
        return admin.address

    def _record_writer(self) -> RecordWriter | None:
        """What writes requests into files, if that is wanted and can be done."""
        if self._settings.record is None:
            return None
        dropped = partial(self.recorder.anomaly, Anomaly.RECORD_DROPPED)
        writer = RecordWriter(Path(self._settings.record), self._settings.record_limit, dropped, self._report)
        try:
            writer.start()
            self.recorder.not_kept = dropped
        except OSError as error:
            why = f"SIDECAR_RECORD={mask(self._settings.record)}: nothing is recorded: {error.strerror}"
            self._say(n.TELEMETRY_NOTE, WARNING, message=why)
            return None
        return writer

    def _metrics_text(self, accept: str) -> Rendering:
        """For `/metrics`, which is there only if metrics are."""
        if self._store is None:
            raise LookupError("no metrics are recorded")
        return prometheus_text(self._store, self._config.resource, accept)

    async def _close_ports(self) -> None:
        await asyncio.gather(*(port.close() for port in self._ports))
        self._ports.clear()

    def _sample_lag(self, due: int) -> None:
        """Measures how late (ns) the event loop runs a timer, and looks at the wall clock, again and again."""
        now = self._clock()
        self._wall.look()
        self.recorder.record_lag(max(0, now - due))
        self._timers["lag"] = asyncio.get_running_loop().call_later(
            _LAG_EVERY / SECOND, self._sample_lag, now + _LAG_EVERY
        )

    def _collect(self, settled: int) -> None:
        """Collects garbage among what has been made since so many requests had settled, once there are enough, again and again."""
        now = self.recorder.requests_settled
        if now - settled >= _REQUESTS_TO_COLLECT:
            gc.collect(0)
            settled = now
        self._timers["garbage"] = asyncio.get_running_loop().call_later(
            _COLLECT_EVERY, self._collect, settled
        )

    def _look_for_long(self, after: int) -> None:
        """Has requests told that have been running for `after` ns, again and again."""
        if self._relay is not None:
            self.recorder.long_running(self._relay.exchanges(), after)
        every = min(_LONG_AT_MOST_EVERY, after / SECOND / 4)
        self._timers["long"] = asyncio.get_running_loop().call_later(every, self._look_for_long, after)

    def _expire(self) -> None:
        """Ends the sessions whose time has come, as there is room for their spans; first it looks whether that time was theirs."""
        self._wall.look()
        now = self._clock()
        due = self.sessions.next_expiry
        if due is not None and 0 <= now - due <= _PUT_OFF and not self._pipeline.roomy:
            every = _FOR_ROOM
        else:
            self.sessions.expire(now, most=_END_AT_MOST)
            due = self.sessions.next_expiry
            usual = min(_EXPIRE_AT_MOST_EVERY, self._settings.session_idle / 4)
            every = _AT_ONCE if due is not None and due <= now else usual
        self._timers["expiry"] = asyncio.get_running_loop().call_later(every, self._expire)

    def _report(self, error: Exception) -> None:
        """A bug has struck, and failing to report it must not do more harm."""
        self.recorder.guard("bug", self._say_bug, error)

    def _say_bug(self, error: Exception) -> None:
        """Its kind and where; its text may hold what nobody should log."""
        frames = traceback.format_tb(error.__traceback__)
        fields = {"error": type(error).__qualname__, "frames": "".join(frames)}
        self.recorder.log.event(n.BUG, ERROR, self._clock(), fields)

    def _wall_jumped(self, moved: int) -> None:
        self.recorder.log.event(n.CLOCK_JUMPED, WARNING, self._clock(), {n.CLOCK_JUMP: moved / SECOND})

    def _stood_still(self, by: int) -> None:
        """Nobody ran here for `by` ns: stopped, starved, or suspended with the machine."""
        self.sessions.stood_still(by, self._clock())
        if self._relay is not None:
            self._relay.stood_still(by)

    def _say(self, event: str, level: str, **fields: str | int) -> None:
        """A line of the sidecar's own life."""
        self.recorder.log.always(event, level, self._clock(), fields)


def _keep_what_stays(phase: str, about: dict[str, int]) -> None:
    """What a collection of garbage leaves is not walked through by the next: with many sessions that takes a second,
    and everybody waits. It is freed as ever when nothing needs it, unless it is in a cycle; requests leave none.
    """
    del about
    if phase == "stop":
        gc.freeze()


def _allow_files() -> None:
    """Raises the soft limit of open files as far as the hard one allows, `_FILES` at most."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _FILES if hard == resource.RLIM_INFINITY else min(hard, _FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(
            ValueError, OSError
        ):  # A system may have a lower limit that it does not tell.
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def run(settings: Settings) -> int:
    """Serves until told to stop; gives the exit code.

    Raises:
        CannotListenError: a port cannot be had.
    """
    _allow_files()

    async def main() -> None:
        await Sidecar(settings).serve()

    uvloop.run(main())
    return 0
