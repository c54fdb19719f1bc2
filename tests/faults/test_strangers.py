"""What others say is bounded, dropped when it is nonsense, and obeyed from whom it may come."""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import resource
import signal
import socket
import time

import entry_points
import pytest
from harness import TIMEOUT, Program, get, held, settled_descriptors
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from endless_py._control import client
from endless_py._handoff.channel import MAX_DESCRIPTORS, Channel
from endless_py.exceptions import ChannelClosed, ChannelError

NOBODY = 65534
quick = settings(
    max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck)
)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=12,
)


def nearly(good):
    """Objects that are right but for a field or two, and any others."""
    wrong = st.dictionaries(st.sampled_from(sorted(good)), json_values, max_size=2)
    fewer = st.sets(st.sampled_from(sorted(good)), max_size=1)
    return st.builds(
        lambda more, less: {k: v for k, v in {**good, **more}.items() if k not in less},
        wrong,
        fewer,
    )


GREETING = {
    "type": "listeners",
    "own": 0,
    "pid": 1,
    "kept": False,
    "generation": 1,
    "bridge": False,
    "listeners": [],
    "more": True,
    "older": [1],
}
CONNECTION = {"address": ["127.0.0.1", 1], "state": "", "timeout": None}
STATE = {"format": 1, "releases": [], "current": None, "pending": None, "marks": {}}


def bodies(good):
    return nearly(good).map(lambda body: json.dumps(body).encode())


def repr_short(data):
    return repr(data[:4])


@pytest.fixture(autouse=True)
def nothing_stays_open():
    before = len(os.listdir("/proc/self/fd"))
    yield
    assert len(os.listdir("/proc/self/fd")) <= before  # another test's garbage may go meanwhile


@pytest.mark.parametrize("name", sorted(entry_points.ALL))
def test_any_bytes(name):
    @quick
    @given(st.binary(max_size=300))
    def run(data):
        entry_points.ALL[name](data)

    run()


@pytest.mark.parametrize("name", sorted(entry_points.ALL))
@pytest.mark.parametrize("data", [b"[" * 100_000, b"2" * 50, b"1:" * 99], ids=repr_short)
def test_what_the_fuzzer_found(name, data):
    entry_points.ALL[name](data)


@quick
@given(st.from_regex(r"\A[0-9]{1,12}(:[0-9]{0,12}(:[0-9,]{0,30})?)?\Z"))
@example("7:1:0")
@example("7:1:9999999999")
def test_the_handoff_variable(word):
    entry_points.handoff_word(word.encode())


@quick
@given(bodies(GREETING), st.integers(0, 3), st.integers(0, 3))
@example(json.dumps({**GREETING, "generation": float("inf"), "more": False}).encode(), 0, 0)
@example(json.dumps({**GREETING, "own": float("inf"), "more": False}).encode(), 0, 0)
def test_a_greeting_that_is_not_whole(body, said, sent):
    entry_points.inheritance(entry_points.frame(body, said), sent)


@quick
@given(
    st.lists(st.tuples(bodies({"type": "x"}), st.integers(0, 70)), max_size=4),
    st.binary(max_size=20),
    st.integers(0, 3),
    st.integers(1, 50),
)
def test_frames_in_pieces_with_descriptors_anywhere(frames, tail, descriptors, pieces):
    data = b"".join(entry_points.frame(*frame) for frame in frames) + tail
    entry_points.channel(data, descriptors, pieces)


@quick
@given(bodies(CONNECTION))
@example(json.dumps({**CONNECTION, "timeout": -1}).encode())
@example(json.dumps({**CONNECTION, "timeout": float("nan")}).encode())
@example(json.dumps({**CONNECTION, "timeout": 1e300}).encode())
def test_a_connection_that_is_none(data):
    entry_points.traveller(data)


@pytest.mark.slow
@quick
@given(bodies(STATE))
def test_the_state_of_upgrades(data):
    entry_points.upgrade_state(data)


@quick
@given(
    st.lists(
        st.tuples(
            st.sampled_from("01235gLK"),
            st.text("ab./\\\0\n ", max_size=12),
            st.text("ab./ ", max_size=12),
        ),
        max_size=6,
    )
)
@example([("2", "a", ".."), ("0", "a/b", "x")])
@example([("2", "a", "b"), ("2", "b", "../.."), ("5", "a/c", "")])
@example([("1", "a", "../x")])
def test_members_of_an_archive(members):
    words = [f"{kind}{name.strip(chr(10))} {more}".encode() for kind, name, more in members]
    entry_points.tar(entry_points.tar_of(b"\n".join(words)))


@quick
@given(
    st.lists(
        st.sampled_from(
            [b"5\r\n", b"hello", b"\r\n", b"0\r\n", b"X: y\r\n", b"\n", b";a\r\n", b"GET"]
        )
    ).map(b"".join)
)
@example(b"5\r\nhello\r\n0\r\n\r\nGET")
def test_a_body_in_chunks(data):
    entry_points.request_body(data)


@quick
@given(bodies(entry_points.SIGNED))
def test_a_statement(data):
    entry_points.statement(data)


@quick
@given(bodies({"command": "stop"}))
def test_requests(body):
    entry_points.request(entry_points.frame(body))


@quick
@given(st.integers(-2, 10**12).map(str) | st.text(max_size=9), st.text(max_size=12))
def test_listen_variables_for_this_process(count, names):
    words = [str(os.getpid()), count.replace("\n", "")[:9] or "0", names.replace("\n", "")]
    if words[1].isascii() and words[1].isdigit() and int(words[1]):
        words[0] = "1"  # pytest's own descriptors are not to be taken
    entry_points.listen_variables(os.fsencode("\n".join(words).encode("utf-8", "replace")))


# -- the channel --------------------------------------------------------------


def test_descriptors_that_belong_to_no_message_are_an_error_at_once():
    mine, other = socket.socketpair()
    receiver = Channel(other)
    before = len(os.listdir("/proc/self/fd"))
    with mine, open(os.devnull) as null:
        for byte in entry_points.frame(b"{}" + b" " * 50)[:12]:
            socket.send_fds(mine, [bytes([byte])], [null.fileno()] * MAX_DESCRIPTORS)
        with pytest.raises(ChannelError, match="belong to no message"):
            receiver.receive()
        assert len(os.listdir("/proc/self/fd")) <= before + 1 + 2 * MAX_DESCRIPTORS
    receiver.close()


def test_a_flood_of_messages_with_descriptors_is_taken_in_bit_by_bit():
    mine, other = socket.socketpair()
    left, right = Channel(mine), Channel(other)
    with open(os.devnull) as null:
        for _ in range(12):
            left.send({}, (null.fileno(),) * MAX_DESCRIPTORS)
        count = 0
        while count < 12:
            messages = right.receive()
            assert 0 < len(messages) <= 5
            count += len(messages)
            for message in messages:
                assert None not in message.descriptors
                message.close()
    left.close()
    with pytest.raises(ChannelClosed):
        right.receive()
    right.close()


# -- neighbours ---------------------------------------------------------------

WRONG = [None, True, -1, 1 << 40, "x", [], {}, [[1]], [None], float("inf")]
SAY = """
import endless_py, json, sys
from endless_py._reload import process
def say(messages):
    for body, count in messages:
        neighbour = {neighbour}
        neighbour.channel.send(body, (2,) * count)
        while neighbour.channel.sending:  # what is not sent at the end is lost
            neighbour.channel.flush()
"""


def wrong_bodies(shapes):
    for word, fields in shapes.items():
        for field in fields:
            for value in WRONG:
                yield {**fields, "type": word, field: value}
        yield {"type": word}


FROM_PREDECESSOR = {
    "reloaded": {"report": None},
    "in_charge": {"pid_file": "a\0b"},
    "counted": {"numbers": {"requests": -1}},
    "predecessor": {"pid": 1, "own": 1, "kept": False, "waits": False, "numbers": []},
    "connections": {"items": 0},
}
ITEM = {"id": 1, "listener": 0, "address": ["127.0.0.1", 1], "state": "", "timeout": None}


def from_predecessor():
    for body in wrong_bodies(FROM_PREDECESSOR):
        # What is right has an effect, which is not looked for here.
        if body["type"] == "reloaded" and body.get("report") in (None, {}):
            continue
        if body["type"] == "in_charge" and body.get("pid_file") in (None, "x"):
            continue
        yield body
    for field in ITEM:
        for value in WRONG:
            yield {"type": "connections", "items": [{**ITEM, field: value}, value]}
    yield {"type": "no word of ours"}


def test_a_predecessor_that_says_nonsense_is_logged_and_serving_goes_on(tmp_path):
    """The incumbent, which drains, says it; its successor has to stand it."""
    (tmp_path / "version").write_text("v")
    messages = [(body, count) for body in from_predecessor() for count in (0, 1, 3)]
    (tmp_path / "said").write_text(repr(messages))
    code = SAY.format(neighbour="process.current.successor") + (
        "@endless_py.on_draining\n"
        "def now():\n"
        "    inf = float('inf')\n"
        "    say(eval(open(sys.argv[1] + '/said').read()))\n"
    )
    (tmp_path / "code").write_text(code)
    with Program("steps.py", tmp_path) as program:
        old = program.wait_serving()
        (tmp_path / "code").write_text("")
        new = program.reload(1, old)
        program.wait("unknown word 'no word of ours'")  # after all others
        program.wait_alone(new)
        text = program.text
        for wrong in (
            "'reloaded' with a wrong 'report'",
            "'in_charge' with a wrong 'pid_file'",
            "'counted' with a wrong 'numbers'",
            "'predecessor' with a wrong 'numbers'",
            "a predecessor without a channel",
            "a connection ",
            "unknown word 'no word of ours'",
        ):
            assert f"protocol error on the handoff channel, the message is ignored: {wrong}" in text
        assert "Traceback" not in text
        assert get(program.port) == "v end"
        before = held(new)[0]
        last = program.reload(2, new)  # and the next reload works
        program.wait_alone(last)
        assert get(program.port) == "v end"
        assert held(last)[0] == before
        program.stop(last)


def from_successor():
    for body in wrong_bodies({"taken": {"ids": [1]}, "replaced_by": {"pid": 1, "generation": 1}}):
        if body != {"type": "taken", "ids": []}:
            yield body
    yield {"type": ["x"]}
    yield {"type": "x" * 10_000}
    for value in (-1, 5, "x", [], {}, float("inf")):
        yield {"type": "adopted", "index": value}
        yield {"type": "ready", "index": value}
    yield {}


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_a_successor_that_says_nonsense_is_given_up(tmp_path):
    (tmp_path / "version").write_text("v")
    (tmp_path / "code").write_text("")
    bodies = list(from_successor())
    chosen = [*random.Random(5).sample(bodies, 6), {"type": ["x"]}]
    with Program("steps.py", tmp_path) as program:
        pid = program.wait_serving()
        for body in chosen:
            said = f"inf = float('inf'); say([({body!r}, 2)]); import time; time.sleep(60)"
            (tmp_path / "code").write_text(
                SAY.format(neighbour="process.current.predecessors.parent") + said
            )
            after = len(program.lines)
            os.kill(pid, signal.SIGHUP)
            line = program.wait("reload failed: generation 1", after).string
            assert re.search(
                r"killed by SIGKILL .*protocol error on the handoff channel: .{1,60}", line
            ), line
            assert get(program.port) == "v end"
        (tmp_path / "code").write_text("")
        new = program.reload(1, pid)
        program.wait_alone(new)
        program.stop(new)
        assert "Traceback" not in program.text


# -- another user -------------------------------------------------------------


def as_nobody(function):
    """Run it in a process of another user's; fail with what it says."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        problem = b""
        try:
            os.close(reading)
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)
            function()
        except BaseException as error:
            problem = repr(error).encode()
        os.write(writing, problem)
        os._exit(0)
    os.close(writing)
    with open(reading, "rb") as stream:
        problem = stream.read()
    os.waitpid(pid, 0)
    assert problem == b""


def control_name(pid):
    (address,) = client.addresses(pid)
    return address


needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")


def resident(pid):
    with open(f"/proc/{pid}/status") as file:
        return int(re.search(r"VmRSS:\s+(\d+)", file.read())[1])


@pytest.mark.slow
@needs_root
def test_another_user_can_take_stop_and_fill_nothing(tmp_path):
    (tmp_path / "version").write_text("v")
    (tmp_path / "code").write_text("")
    with Program("steps.py", tmp_path) as program:
        pid = program.wait_serving()
        name, port = control_name(pid).partition("/root")[2], program.port
        assert get(port) == "v end"
        files, memory = settled_descriptors(pid), resident(pid)

        def attack():
            for number in (signal.SIGHUP, signal.SIGTERM, signal.SIGUSR2, signal.SIGKILL):
                with pytest.raises(PermissionError):
                    os.kill(pid, number)
            with pytest.raises(PermissionError):
                os.listdir(f"/proc/{pid}/fd")
            for entry in ("environ", "mem"):
                with pytest.raises(PermissionError):
                    os.open(f"/proc/{pid}/{entry}", os.O_RDONLY)
            if hasattr(os, "pidfd_open"):
                descriptor = os.pidfd_open(pid)
                with pytest.raises(PermissionError):
                    signal.pidfd_send_signal(descriptor, signal.SIGTERM)
            with socket.socket() as thief, pytest.raises(OSError, match="in use"):
                thief.bind(("127.0.0.1", port))
            with socket.socket(socket.AF_UNIX) as thief, pytest.raises(OSError, match="denied"):
                thief.bind(name)
            deadline = time.monotonic() + 1
            flood = []
            while time.monotonic() < deadline:  # as fast as it goes
                sock = socket.socket(socket.AF_UNIX)
                sock.setblocking(False)
                with contextlib.suppress(OSError):
                    sock.connect(name)
                    sock.send(
                        entry_points.frame(b'{"command": "stop"}') + b"x" * 100_000
                    )  # never reads
                flood.append(sock)
                if len(flood) > 200:
                    flood.pop(0).close()

        attackers = [os.fork() for _ in range(2)]
        if 0 in attackers:
            try:
                as_nobody(attack)
            except BaseException as error:
                os.write(2, repr(error).encode())
                os._exit(1)
            os._exit(0)
        try:
            while os.waitpid(attackers[-1], os.WNOHANG) == (0, 0):
                assert get(port) == "v end"
        finally:
            statuses = [os.waitpid(attacker, 0)[1] for attacker in attackers[:-1]]
        assert statuses == [0]
        assert "SIGHUP" not in program.text
        assert "SIGTERM" not in program.text
        assert "drains" not in program.text
        get(port)
        deadline = time.monotonic() + TIMEOUT
        while len(os.listdir(f"/proc/{pid}/fd")) > files:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert resident(pid) < memory + 8 * 1024
        new = program.reload(1, pid)
        program.wait_alone(new)
        program.stop(new)


def test_no_name_is_found_by_who_shares_the_network(tmp_path):
    """An abstract name of a Unix socket is there for every container with the host's network."""
    (tmp_path / "version").write_text("v")
    (tmp_path / "code").write_text("")
    with Program("steps.py", tmp_path) as program:
        pid = program.wait_serving()
        settled_descriptors(pid)
        links = {os.readlink(entry.path) for entry in os.scandir(f"/proc/{pid}/fd")}
        with open("/proc/net/unix") as file:
            lines = [line.split() for line in file if f"socket:[{line.split()[6]}]" in links]
        names = [words[7] for words in lines if len(words) > 7]
        assert len(names) == 1
        assert control_name(pid) == f"/proc/{pid}/root{names[0]}"  # a path, not "@..."
        assert os.stat(os.path.dirname(names[0])).st_mode & 0o777 == 0o700
        program.stop(pid)


def flood(senders, descriptor):
    for sender in senders:
        sender.setblocking(False)
        for _ in range(9):
            socket.send_fds(sender, [b"x"], [descriptor] * 8)


@needs_root
def test_a_user_whose_descriptors_are_all_under_way_sends_later():
    """Linux counts them for all processes of a user together, root's excepted."""

    def act():
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
        others = [socket.socketpair() for _ in range(3)]
        with open(os.devnull) as null, pytest.raises(OSError, match="Too many references"):
            flood([sender for sender, _ in others], null.fileno())
        left, right = map(Channel, socket.socketpair())
        reading, writing = os.pipe()
        left.send({"number": 1}, (reading,))
        left.send({"number": 2})
        assert left.sending
        assert right.receive() == []
        for pair in others:
            for sock in pair:
                sock.close()
        deadline = time.monotonic() + TIMEOUT
        messages = []
        while len(messages) < 2:  # the kernel lets go of those under way a little later
            assert time.monotonic() < deadline
            left.flush()
            messages += right.receive()
        assert [message.body["number"] for message in messages] == [1, 2]
        os.write(writing, b"y")
        assert os.read(messages[0].take(), 1) == b"y"

    as_nobody(act)


@needs_root
def test_who_may_ask_and_never_reads_fills_no_memory(tmp_path):
    """The same user is trusted with orders, not with memory."""
    (tmp_path / "version").write_text("v")
    (tmp_path / "code").write_text("")
    with Program("steps.py", tmp_path) as program:
        pid = program.wait_serving()
        name = control_name(pid)
        get(program.port)
        memory = resident(pid)
        deaf = []
        for _ in range(20):
            sock = socket.socket(socket.AF_UNIX)
            sock.setblocking(False)
            deaf.append(sock)
            with contextlib.suppress(OSError):
                sock.connect(name)
                sock.send(entry_points.frame(b'{"command": "watch"}'))
                for _ in range(64):
                    sock.send(b"x" * 65536)
        assert get(program.port) == "v end"
        assert resident(pid) < memory + 8 * 1024
        for sock in deaf:
            sock.close()
        new = program.reload(1, pid)
        program.wait_alone(new)
        program.stop(new)
