"""Our daemon in difficult conditions: few descriptors, a port in use, a syslog that restarts."""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import re
import socket
import time
from typing import TYPE_CHECKING

import pytest

from tests.interop.daemons import answers
from tests.interop.diagnostics import counters, key
from tests.interop.pairs import GO, LINK, WGQ, End, join, machines, pair, processor_seconds
from tests.interop.refused_sends import refusing
from tests.interop.traffic import bulk
from tests.waiting import stopped, until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.namespaces import Namespace

DATAGRAMS = 3000
# MAX_STAGED_PACKETS of the kernel's queueing.h.
QUEUE = 128
SO_RCVBUFFORCE = 33


@pytest.mark.parametrize("limit", [26, 48])
def test_silent_connections_do_not_use_up_few_descriptors(limit: int) -> None:
    with machines(f"prlimit --nofile={limit}:{limit} {WGQ}", GO) as (left, right):
        join(left, right)
        for end in (left, right):
            end.start()
        with contextlib.ExitStack() as silent:
            for _ in range(100):
                silent.enter_context(left.uapi())
            right.configure(left.peer())
            left.configure(right.peer(version=4))
            left.ping(right)
            before = processor_seconds(left)
            time.sleep(1)
            assert processor_seconds(left) - before < 0.2
            left.wg("set", LINK, "listen-port", "40000", "fwmark", "7")
            left.ping(right)
        left.assert_alive()


@contextlib.contextmanager
def syslog(machine: Namespace) -> Iterator[socket.socket]:
    """Syslog's socket, as long as it runs; /dev is the machine's own."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as made:
        made.settimeout(30)
        with machine.entered():
            made.bind("/dev/log")
        yield made
        machine.run(["rm", "/dev/log"])


def first_message(log: socket.socket, text: str) -> str:
    """The first message that contains this text."""
    while text not in (message := log.recv(1 << 16).decode()):
        pass
    return message


def test_a_background_daemon_logs_to_a_syslog_that_starts_late() -> None:
    with machines(WGQ, GO) as (end, _):
        machine = end.machine
        machine.run(["sh", "-c", "mkdir /run/dev && cp -a /dev/null /dev/net /dev/urandom /run/dev/"])
        machine.run(["mount", "--bind", "/run/dev", "/dev"])
        machine.run([WGQ, "-v", LINK])
        for _ in range(2):
            with syslog(machine) as log:
                end.request("set=1\nunknown=1\n\n")
                refusal = first_message(log, "refused a configuration request")
                assert refusal.startswith("<31>wgq-userspace[")
                assert f"({LINK})" in refusal
        with syslog(machine) as log:
            began = time.monotonic()
            for _ in range(200):
                end.request("set=1\nunknown=1\n\n")
            log.settimeout(0.2)
            logged = 0
            with contextlib.suppress(TimeoutError):
                while log.recv(1 << 16):
                    logged += 1
            assert 0 < logged <= 20 * (time.monotonic() - began + 1)


@pytest.mark.parametrize("far", [WGQ, GO])
def test_packets_that_waited_for_the_handshake_arrive_first(far: str) -> None:
    with pair(WGQ, far) as (left, right):
        for _ in range(5):
            left.forget(right)
            with numbered(left, right) as (send, arrived):
                numbers: list[int] = []
                for number in itertools.count():
                    send(number)
                    numbers += arrived()
                    if len(numbers) > DATAGRAMS:
                        break
                    # The pause is about the time of one encryption: the daemon reads packets while it sends others.
                    if number % 5 == 0:
                        time.sleep(0.00002)
            assert numbers == sorted(set(numbers))


def test_the_queue_keeps_the_newest_packets_in_order() -> None:
    with pair(WGQ, GO) as (left, right), numbered(left, right) as (send, arrived):
        left.forget(right)
        assert right.daemon is not None
        with stopped(right.daemon.pid):
            for number in range(200):
                send(number)
            until(lambda: dropped(left, right) == 200 - QUEUE, "all of them in the queue")
        numbers: list[int] = []

        def complete() -> bool:
            numbers.extend(arrived())
            return 199 in numbers

        until(complete, "the last one")
        assert numbers == list(range(200 - QUEUE, 200))


def dropped(end: End, other: End) -> int:
    """How many packets to the other end found the queue full."""
    return counters(end).peer(key(other)).total("staged_dropped")


@contextlib.contextmanager
def numbered(left: End, right: End) -> Iterator[tuple[Callable[[int], object], Callable[[], list[int]]]]:
    """A function that sends a numbered datagram, and one that returns the numbers that arrived since, in order."""
    with (
        left.open_socket(socket.AF_INET, socket.SOCK_DGRAM) as sending,
        right.open_socket(socket.AF_INET, socket.SOCK_DGRAM) as receiving,
    ):
        receiving.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 8 << 20)
        receiving.bind((right.inner(), 0))
        receiving.setblocking(False)
        target = receiving.getsockname()

        def arrived() -> list[int]:
            numbers: list[int] = []
            with contextlib.suppress(BlockingIOError):
                while True:
                    numbers.append(int.from_bytes(receiving.recv(999)[:4], "big"))
            return numbers

        yield lambda number: sending.sendto(number.to_bytes(4, "big") + bytes(200), target), arrived


def gone() -> int:
    reading, writing = os.pipe()
    os.close(reading)
    return writing


def full() -> int:
    return os.open("/dev/full", os.O_WRONLY)


@contextlib.contextmanager
def stalled() -> Iterator[int]:
    """A full pipe that nothing reads."""
    reading, writing = os.pipe()
    with open(reading, "rb"), open(writing, "wb") as filled:
        os.set_blocking(writing, False)
        with contextlib.suppress(BlockingIOError):
            while os.write(writing, bytes(4096)):
                pass
        os.set_blocking(writing, True)
        yield filled.fileno()


@contextlib.contextmanager
def closing(descriptor: int) -> Iterator[int]:
    with open(descriptor, "wb", buffering=0):
        yield descriptor


LOGS = {"gone": lambda: closing(gone()), "full": lambda: closing(full()), "stalled": stalled}


@pytest.mark.parametrize("log", LOGS)
def test_an_unwritable_log_does_not_stop_the_daemon(log: str) -> None:
    with machines(WGQ, GO) as (left, right), LOGS[log]() as stderr:
        join(left, right)
        daemon = left.machine.popen([WGQ, "-f", "-v", LINK], stderr=stderr)
        until(lambda: answers(left.machine), "started")
        right.start()
        right.configure(left.peer())
        left.configure(right.peer(version=4))
        left.ping(right)
        assert refused(left)
        assert daemon.poll() is None


def refused(end: End) -> bool:
    return end.request("set=1\nunknown=1\n\n") == f"errno=-{errno.EINVAL}\n\n"


@pytest.mark.parametrize("options", [["--help"], ["--version"], ["--features"], ["--fast"], [LINK]])
@pytest.mark.parametrize("streams", ["gone", "full"])
def test_unwritable_output_gives_an_error_status_and_no_crash(streams: str, options: list[str]) -> None:
    with machines(WGQ, GO) as (end, _), LOGS[streams]() as stream:
        end.machine.run(["ip", "link", "add", LINK, "type", "veth"])
        started = end.machine.popen([WGQ, *options], stdout=stream, stderr=stream)
        assert started.wait(30) in (1, 2)


@pytest.mark.parametrize("error", [errno.EIO, errno.EMSGSIZE, errno.EINVAL])
def test_a_refused_large_send_goes_out_in_pieces(
    error: int,
) -> None:
    with pair(refusing(error, 30, WGQ), GO) as (left, right):
        left.ping(right)
        for _ in range(10):
            bulk(left, right, 8 << 20)
            if large_sends(left) == "no":  # one of the refused sends was large
                break
        assert large_sends(left) == ("no" if error == errno.EIO else "yes")
        bulk(left, right, 8 << 20)


def large_sends(end: End) -> str:
    found = re.search("large UDP sends to peers: (.*)", end.machine.out(WGQ, "--features", LINK))
    assert found is not None
    return found[1]
