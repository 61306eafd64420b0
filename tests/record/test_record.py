"""Requests in files: what is written of them, within which bounds, and what is read again."""

import json
import os
import re
import threading
import urllib.request
from collections.abc import Callable
from pathlib import Path
from subprocess import PIPE, Popen, run
from sys import executable
from typing import Any

import msgspec
import pytest

from sidecar import cli
from sidecar.live import Bar, Detail, Ended, detail_of
from sidecar.record import RecordError, RecordWriter, read_records
from sidecar.record.replay import replay
from sidecar.record.view import board_of
from sidecar.testing import (
    Gate,
    RawClient,
    RunningSidecar,
    ScriptedUpstream,
    Wait,
    chat_completion,
    chat_request,
    exchange,
    json_answer,
)
from tests.live.boards import Looking, settled

ROOT = Path(__file__).parents[2]
SECRETS = ("sk-secret1234567890", "a secret question", "a secret answer")
StartSidecar = Callable[..., RunningSidecar]


def failed(error: Exception) -> None:
    """Nothing but the disk may fail."""
    raise error


def call(sidecar: RunningSidecar, session: str) -> None:
    """One call with a key, a question and an answer that must not be recorded."""
    fields = [f"X-Sidecar-Session-Id: {session}".encode(), b"Authorization: Bearer " + SECRETS[0].encode()]
    exchange(sidecar.port, chat_request(headers=fields, messages=[{"role": "user", "content": SECRETS[1]}]))


def test_what_is_recorded(start_sidecar: StartSidecar, upstream: ScriptedUpstream, tmp_path: Path) -> None:
    """The document that the live page shows, and nothing of the content; for the owner alone."""
    folder = tmp_path / "made"
    upstream.answer_always(*json_answer(chat_completion(SECRETS[2])))
    sidecar = start_sidecar(settings={"RECORD": str(folder)})
    call(sidecar, "one")
    call(sidecar, "<two>")
    with Looking(sidecar.admin_port) as looking:
        bars = [looking.one(session=session, outcome="completed") for session in ("one", "<two>")]
    shown = [sidecar.admin("GET", f"/live/requests/{bar['id']}")[1] for bar in bars]
    assert sidecar.stop() == 0
    assert read_records(folder) == shown
    (file,) = folder.iterdir()
    assert file.stat().st_mode & 0o777 == 0o600
    assert re.fullmatch(r"requests-\d{8}T\d{6}-\d+-000001\.jsonl", file.name)
    assert not [secret for secret in SECRETS if secret in file.read_text()]


def test_off_by_default(start_sidecar: StartSidecar, upstream: ScriptedUpstream, tmp_path: Path) -> None:
    """Nothing is written anywhere."""
    upstream.answer_always(*json_answer(chat_completion("Hi")))
    sidecar = start_sidecar(environ={"TMPDIR": str(tmp_path), "HOME": str(tmp_path)})
    call(sidecar, "one")
    assert sidecar.stop() == 0
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_had(
    start_sidecar: StartSidecar, upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    """Told in a line; requests pass as ever."""
    (tmp_path / "file").write_text("")
    upstream.answer_always(*json_answer(chat_completion("Hi")))
    sidecar = start_sidecar(settings={"RECORD": str(tmp_path / "file" / "below")})
    call(sidecar, "one")

    def told() -> bool:
        messages = [line["message"] for line in sidecar.find_logs("sidecar.telemetry")]
        return any("SIDECAR_RECORD=" in message and "nothing is recorded" in message for message in messages)

    sidecar.wait_until(told)


def test_files_are_bounded(tmp_path: Path) -> None:
    """Together they stay below the limit, the oldest go, and what others have put there stays."""
    (tmp_path / "mine.txt").write_text("x" * 100)
    limit = 64 * 1024
    dropped: list[int] = []
    writer = RecordWriter(tmp_path, limit, lambda: dropped.append(1), failed)
    writer.start()
    for number in range(1, 601):
        while writer._waiting.qsize() > 500:
            threading.Event().wait(0.001)
        writer.put(settled(number))
    writer.close(30)
    files = list(tmp_path.glob("requests-*.jsonl"))
    assert 1 < len(files) <= 8
    assert sum(file.stat().st_size for file in files) <= limit
    found = [int(record["bar"]["id"], 16) for record in read_records(tmp_path)]
    assert found == list(range(found[0], 601))
    assert (tmp_path / "mine.txt").exists()
    assert not dropped


def test_starts_without_end_leave_a_bounded_number_of_files(tmp_path: Path) -> None:
    """The oldest go, whatever the size of all; a sidecar that has nothing to write leaves none."""
    for number in range(1, 100):
        writer = RecordWriter(tmp_path, 1 << 30, lambda: None, failed)
        writer.start()
        if number % 10:
            writer.put(settled(number))
        writer.close(30)
        for file in tmp_path.iterdir():  # each is of another process, and older than the next
            if not file.name.startswith("requests-0"):
                os.utime(file.rename(tmp_path / f"requests-0{number:03}.jsonl"), (number, number))
    assert len([*tmp_path.iterdir()]) == 64
    found = [int(record["bar"]["id"], 16) for record in read_records(tmp_path)]
    assert found == [number for number in range(100) if number % 10][-64:]


def test_what_is_no_file_of_ours_is_left_alone(tmp_path: Path) -> None:
    """A link that leads nowhere or to one of them, and a folder, of such names: all is recorded and read, they stay."""
    (tmp_path / "requests-gone.jsonl").symlink_to("nowhere")
    (tmp_path / "requests-latest.jsonl").symlink_to("requests-2.jsonl")
    (tmp_path / "requests-2.jsonl").write_text("")
    (tmp_path / "requests-old.jsonl").mkdir()
    limit = 64 * 1024
    dropped: list[int] = []
    writer = RecordWriter(tmp_path, limit, lambda: dropped.append(1), failed)
    writer.start()
    for number in range(1, 401):
        writer.put(settled(number))
    writer.close(30)
    assert not dropped
    assert read_records(tmp_path)[-1]["bar"]["id"] == f"{400:016x}"
    kept = {path.name for path in tmp_path.iterdir() if path.is_symlink() or path.is_dir()}
    assert kept == {"requests-gone.jsonl", "requests-latest.jsonl", "requests-old.jsonl"}


def test_what_the_disk_does_not_take_is_counted(tmp_path: Path) -> None:
    """Nobody waits for a disk that hangs, nor for one that fails."""
    dropped: list[int] = []
    writer = RecordWriter(tmp_path, 1 << 20, lambda: dropped.append(1), failed)
    for number in range(1, 1011):
        writer.put(settled(number))
    assert len(dropped) == 10
    writer._folder = tmp_path / "no" / "such"
    writer._thread.start()
    writer.close(30)
    assert len(dropped) == 1010


def out_of_memory(_: object) -> Detail:
    """No document is made of this one."""
    raise MemoryError


def broken(_: object) -> Detail:
    """A bug."""
    raise LookupError


@pytest.mark.parametrize(
    "facts, make, why",
    [
        ({"half": "\ud83d"}, detail_of, UnicodeEncodeError),
        ({}, out_of_memory, MemoryError),
        ({}, broken, LookupError),
    ],
)
def test_one_that_cannot_be_written_is_counted(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    facts: dict[str, object],
    make: Callable[[Ended], Detail],
    why: type[Exception],
) -> None:
    """Half an emoji, which JSON cannot have, too little memory, a bug: that request is lost, and those after it are not."""
    lost = settled(1)._replace(facts=facts)
    monkeypatch.setattr(
        "sidecar.record.writer.detail_of", lambda one: (make if one is lost else detail_of)(one)
    )
    dropped, told = list[int](), list[Exception]()
    writer = RecordWriter(tmp_path, 1 << 20, lambda: dropped.append(1), told.append)
    writer.start()
    for one in (lost, settled(2), settled(3)):
        writer.put(one)
    writer.close(30)
    assert [record["bar"]["sequence"] for record in read_records(tmp_path)] == [0, 0]
    assert dropped == [1]
    assert [type(error) for error in told] == [why]


def test_a_disk_that_takes_half_a_line(tmp_path: Path) -> None:
    """That line is lost and counted, and no other is: the next begins in a file of its own."""
    script = f"""
import resource
from pathlib import Path
from sidecar.record import RecordWriter
from tests.live.boards import settled

def lost():
    print("dropped")
    resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)

unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (2500, unlimited[1]))
writer = RecordWriter(Path({str(tmp_path)!r}), 1 << 20, lost, print)
writer.start()
for number in range(1, 7):
    writer.put(settled(number))
writer.close(30)
"""
    done = run([executable, "-c", script], cwd=ROOT, stdout=PIPE, text=True, timeout=120, check=True)
    lost = done.stdout.count("dropped")
    counted: list[int] = []
    assert len(read_records(tmp_path, counted.append)) == 6 - lost
    assert (lost, counted) == (1, [1])


WRONG = [
    {"wait": "long"},
    {"wait": None, "id": ""},
    {"wait": None, "id": "not hexadecimal!"},
    {"wait": None, "id": "00000000000000001"},
    {},
]


@pytest.mark.parametrize("fields", WRONG, ids=str)
def test_a_line_of_another_version(
    fields: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Is passed over too, by both commands."""
    line = {**recorded(), "bar": {name: value for name, value in recorded()["bar"].items() if name != "wait"}}
    line["bar"] |= fields
    (file := tmp_path / "requests-1.jsonl").write_text(json.dumps(line) + "\n")
    for command in (["view", "--listen=192.0.2.1:80"], ["replay"]):
        assert cli.main([*command, str(file)], {}) == 1
        assert "no line of it was recorded by a sidecar" in capsys.readouterr().err
    deep = json.dumps(recorded()).replace('"facts": {', '"facts": {"x": ' + "[" * 5000)
    file.write_text(deep + "\n")
    assert cli.main(["replay", str(file)], {}) == 1


def test_every_member_of_a_line_is_asked_for(tmp_path: Path) -> None:
    """The page needs all of them: a line that lacks one, or has it as another type, is passed over and counted."""
    (file := tmp_path / "requests-1.jsonl").write_text(json.dumps(recorded()) + "\n")
    assert len(read_records(file)) == 1
    odd: list[dict[str, Any]] = []
    for part, form in ((None, Detail), ("bar", Bar)):
        for name in form.__annotations__:
            for value in ({}, {name: {1: 2}}) if name not in {"bar", "facts"} else ({},):
                line = recorded()
                inner = line if part is None else line[part]
                del inner[name]
                inner.update(value)
                odd.append(line)
    odd += [{**recorded(), "steps": [{"name": "wait", "start": 1}]}, {**recorded(), "links": [{"id": "1"}]}]
    line = recorded()
    line["bar"]["stalls"] = [[1]]
    odd.append(line)
    file.write_text("".join(json.dumps(one) + "\n" for one in [recorded(), *odd]))
    counted: list[int] = []
    assert read_records(file, counted.append) == [recorded()]
    assert counted == [len(odd)]


def recorded() -> dict[str, Any]:
    """A line as a sidecar writes it."""
    document: dict[str, Any] = json.loads(msgspec.json.Encoder(enc_hook=str).encode(detail_of(settled(1))))
    return document


def test_a_line_that_was_cut(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Is passed over; a file without any line of ours is told."""
    writer = RecordWriter(tmp_path, 1 << 20, lambda: None, failed)
    writer.start()
    writer.put(settled(1))
    writer.close(30)
    (file,) = tmp_path.iterdir()
    whole = file.read_bytes()
    file.write_bytes(whole + whole[: len(whole) // 2])
    assert len(read_records(file)) == 1
    assert cli.main(["replay", str(file)], {}) == 0
    assert capsys.readouterr().err == "sidecar: 1 line passed over: cut, or not of this version\n"
    file.write_text("hello\n{}\n")
    for path in (file, tmp_path, tmp_path / "none"):
        with pytest.raises(RecordError):
            read_records(path)
        assert cli.main(["view", str(path)], {}) == cli.main(["replay", str(path)], {}) == 1
    file.write_text("")
    assert read_records(tmp_path) == []
    file.unlink()
    assert cli.main(["view", str(tmp_path)], {}) == cli.main(["replay", str(tmp_path)], {}) == 1


def test_view(
    start_sidecar: StartSidecar,
    upstream: ScriptedUpstream,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The same page, the same bars and the same details, from the file."""
    upstream.answer_always(*json_answer(chat_completion("Hi")))
    sidecar = start_sidecar(settings={"RECORD": str(tmp_path)})
    call(sidecar, "viewed")
    assert sidecar.stop() == 0
    (record,) = read_records(tmp_path)
    with Popen([executable, "-m", "sidecar", "view", str(tmp_path)], stdout=PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            url = process.stdout.readline().strip()
            with urllib.request.urlopen(url, timeout=120) as page:
                assert b"Session sidecar" in page.read()
            with urllib.request.urlopen(f"{url}live/requests/{record['bar']['id']}", timeout=120) as detail:
                assert json.load(detail) == record
            with Looking(int(url.rstrip("/").rpartition(":")[2])) as looking:
                assert looking.one(session="viewed") == record["bar"]
                assert looking.about["live"] is False
                assert looking.figures["errors"] == 0
            assert cli.main(["top", url, "--once"], {}) == 0
            assert "viewed" in capsys.readouterr().out
        finally:
            process.terminate()
        assert process.wait(120) == 0


def test_what_a_queue_would_have_made_turns_wait_is_whole(tmp_path: Path) -> None:
    """Also of a turn that ended before an earlier one, whose own wait was not known then."""
    lines = []
    for number, (start, end, wait) in enumerate([(0, 10, 0.0), (1, 3, None), (2, 11, 10.0)], 1):
        line = recorded()
        own = {"named": True, "session": "s", "conversation": "c", "turn": True}
        times = {"start": start * 1_000_000, "end": end * 1_000_000, "wait": wait}
        line["bar"] |= {"id": f"{number:016x}", **own, **times}
        lines.append(json.dumps(line) + "\n")
    (tmp_path / "requests-1.jsonl").write_text("".join(lines))
    (hello,) = (frame for frame in board_of(tmp_path).everything() if b"event: hello" in frame)
    assert json.loads(hello.split(b"data: ")[1])["figures"]["wait_avoided_s"] == 9 + 10


def bar(
    start: float,
    took: float,
    *,
    conversation: str = "a",
    model: str = "m",
    turn: bool = True,
    named: bool = True,
) -> dict[str, Any]:
    """A recorded request, as far as the queue looks at it. Seconds."""
    return {
        "bar": {
            "session": "s",
            "conversation": conversation,
            "named": named,
            "model": model,
            "upstream": "default",
            "turn": turn,
            "start": round(start * 1e6),
            "end": round((start + took) * 1e6),
        }
    }


THREE = [bar(0, 10), bar(1, 10), bar(2, 10)]
QUEUES: list[tuple[str, list[dict[str, Any]], dict[str, Any], tuple[int, float, int, int]]] = [
    ("one at a time", THREE, {"limit": 1}, (2, 9 + 18, 0, 2)),
    ("two at a time", THREE, {"limit": 2}, (1, 8, 0, 1)),
    ("enough", THREE, {"limit": 3}, (0, 0, 0, 0)),
    ("gives up", THREE, {"limit": 1, "timeout": 10.0}, (2, 9 + 10, 1, 2)),
    ("gives up at once", THREE, {"limit": 1, "timeout": 5.0}, (2, 5 + 5, 2, 2)),
    ("apart", [bar(0, 1), bar(1, 1)], {"limit": 1}, (0, 0, 0, 0)),
    ("two conversations", [bar(0, 5), bar(0, 5, conversation="b")], {"limit": 1}, (0, 0, 0, 0)),
    ("one model", [bar(0, 5), bar(0, 5, conversation="b")], {"limit": 1, "per": "model"}, (1, 5, 0, 1)),
    ("one upstream", [bar(0, 5), bar(1, 5, model="n")], {"limit": 1, "per": "upstream"}, (1, 4, 0, 1)),
    ("no turn", [bar(0, 5), bar(0, 5, turn=False)], {"limit": 1}, (0, 0, 0, 0)),
    ("nobody's", [bar(0, 5, named=False), bar(0, 5, named=False)], {"limit": 1}, (0, 0, 0, 0)),
    ("shuffled", THREE[::-1], {"limit": 1}, (2, 27, 0, 2)),
    ("nothing", [], {"limit": 1}, (0, 0, 0, 0)),
]


@pytest.mark.parametrize(
    "records,options,expected", [row[1:] for row in QUEUES], ids=[row[0] for row in QUEUES]
)
def test_queues(
    records: list[dict[str, Any]], options: dict[str, Any], expected: tuple[int, float, int, int]
) -> None:
    """Who waits, for how long, who gives up, and how long the queue becomes."""
    found = replay(records, **options)
    assert (found.waited, found.wait_sum, found.timed_out, found.longest_queue) == pytest.approx(expected)


def test_it_is_what_was_avoided(
    start_sidecar: StartSidecar,
    upstream: ScriptedUpstream,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """One at a time per conversation gives the wait that the sidecar says it avoided."""
    gates = [Gate(), Gate(), Gate()]
    sidecar = start_sidecar(settings={"RECORD": str(tmp_path)})
    fields = [b"X-Sidecar-Session-Id: race"]
    clients = [RawClient(sidecar.port) for _ in gates]
    for number, (client, gate) in enumerate(zip(clients, gates, strict=True), start=1):
        upstream.answer(Wait(gate), *json_answer(chat_completion("Hi")))
        client.send(chat_request(headers=fields))
        upstream.head(number - 1)  # or the next one might be answered so
    for client, gate in reversed([*zip(clients, gates, strict=True)]):
        gate.open()
        client.read_answer()
        client.close()
    sidecar.wait_until(lambda: sidecar.stats()["requests"]["settled"] == 3)
    (said,) = sidecar.admin("GET", "/sessions/race")[1]["conversation_list"]
    assert sidecar.stop() == 0
    assert cli.main(["replay", str(tmp_path), "--json"], {}) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["requests"], found["waited"]) == (3, 2)
    assert found["wait_sum"] == pytest.approx(said["wait_avoided_s"], abs=1e-4)
    assert found["worst"] == [["race / main", 3, found["wait_sum"]]]
    assert cli.main(["replay", str(tmp_path), "--limit=3"], {}) == 0
    assert "would have waited   0 (0 %)" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [("--limit=0",), ("--timeout=soon",)])
def test_bad_arguments(
    tmp_path: Path, arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    """Told, with 2."""
    assert cli.main(["replay", str(tmp_path), *arguments], {}) == 2
    assert arguments[0].partition("=")[0] in capsys.readouterr().err
    assert cli.main(["view", str(tmp_path), "--listen=x"], {}) == 2


def test_a_folder_that_is_shared(tmp_path: Path) -> None:
    """Several sidecars may share a folder: each has files of its own name."""
    for _ in range(2):
        writer = RecordWriter(tmp_path, 1 << 20, lambda: None, failed)
        writer.start()
        writer.put(settled(os.getpid()))
        writer.close(30)
    assert len(read_records(tmp_path)) == 1
