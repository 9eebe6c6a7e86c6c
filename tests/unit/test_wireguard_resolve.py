"""Endpoint resolution compared with wg(8) (parse_endpoint and parse_dns_retries in config.c)."""

from __future__ import annotations

import errno
import socket
import threading
from types import SimpleNamespace
from typing import Any

import pytest

from wgquick.errors import OperationError
from wgquick.net import Endpoint, SocketAddress
from wgquick.system.wireguard.resolve import name_matcher, resolve, retries_of


class Resolver:
    """A getaddrinfo with prepared results: failures first, then answers. It records calls and pauses."""

    def __init__(self, *results: Any) -> None:
        self.results = list(results)
        self.calls: list[tuple[Any, ...]] = []
        self.pauses: list[float] = []
        self.notes: list[str] = []

    def getaddrinfo(self, *arguments: Any) -> Any:
        self.calls.append(arguments)
        result = self.results.pop(0) if len(self.results) > 1 else self.results[0]
        if isinstance(result, BaseException):
            raise result
        return result

    def resolve(self, endpoint: Endpoint, retries: int | None = 15) -> SocketAddress:
        return resolve(
            endpoint,
            retries=retries,
            sleep=self.pauses.append,
            getaddrinfo=self.getaddrinfo,
            note=self.notes.append,
        )


NAME = Endpoint("vpn.example.com", "51820")
AGAIN = socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
FOUND = [
    (socket.AF_INET, socket.SOCK_DGRAM, 17, "", ("192.0.2.7", 51820)),
    (socket.AF_INET6, socket.SOCK_DGRAM, 17, "", ("2001:db8::7", 51820, 0, 0)),
]


@pytest.mark.parametrize(
    ("endpoint", "address"),
    [
        (Endpoint("192.0.2.1", "51820"), SocketAddress("192.0.2.1", 51820)),
        (Endpoint("2001:DB8::0:1", "1"), SocketAddress("2001:db8::1", 1)),
        (Endpoint("::", "0"), SocketAddress("::", 0)),
    ],
)
def test_a_numeric_endpoint_needs_no_lookup(endpoint: Endpoint, address: SocketAddress) -> None:
    resolver = Resolver(AssertionError("called"))
    assert resolver.resolve(endpoint) == address


@pytest.mark.parametrize(
    "endpoint", [Endpoint("127.1", "5"), Endpoint("0x7f000001", "5"), Endpoint("127.0.0.1", "domain")]
)
def test_numeric_forms_of_getaddrinfo_are_accepted(endpoint: Endpoint) -> None:
    assert resolve(endpoint, retries=0) == SocketAddress("127.0.0.1", 53 if endpoint.port == "domain" else 5)


def test_a_zone_becomes_the_scope() -> None:
    assert resolve(Endpoint("fe80::1%lo", "5"), retries=0) == SocketAddress("fe80::1", 5, 1)


def test_a_zone_without_a_link_is_reported() -> None:
    resolver = Resolver(socket.gaierror(socket.EAI_NONAME, "Name or service not known"))
    with pytest.raises(OperationError, match="there is no link `eth7': `\\[fe80::1%eth7\\]:51820'") as caught:
        resolve(Endpoint("fe80::1%eth7", "51820"), getaddrinfo=resolver.getaddrinfo)
    assert "host name" not in caught.value.remedy


def test_the_first_answer_is_used_and_the_lookup_is_that_of_wg() -> None:
    resolver = Resolver(FOUND)
    assert resolver.resolve(NAME) == SocketAddress("192.0.2.7", 51820)
    assert resolver.calls == [
        (b"vpn.example.com", "51820", socket.AF_UNSPEC, socket.SOCK_DGRAM, socket.IPPROTO_UDP)
    ]
    assert Resolver(FOUND[::-1]).resolve(NAME) == SocketAddress("2001:db8::7", 51820)


def test_a_name_that_is_not_utf8_is_looked_up_by_its_bytes() -> None:
    resolver = Resolver(FOUND)
    assert resolver.resolve(Endpoint("h\udcf6st", "5")).port == 51820
    assert resolver.calls[0][0] == b"h\xf6st"


def test_a_key_in_place_of_a_name_is_not_shown() -> None:
    key = "yAnz5TF+lXXJte14tji3zlMNq+hd2rYUIgJBgB3fBmk="
    resolver = Resolver(AGAIN, AGAIN)
    with pytest.raises(OperationError) as caught:
        resolver.resolve(Endpoint(key, "51820"), retries=1)
    assert "`(hidden):51820'" in str(caught.value)
    assert not any(key in text for text in (str(caught.value), *resolver.notes))


def test_a_temporary_failure_is_retried_after_growing_pauses() -> None:
    resolver = Resolver(AGAIN, AGAIN, OSError(errno.EMFILE, "Too many open files"), FOUND)
    assert resolver.resolve(NAME) == SocketAddress("192.0.2.7", 51820)
    assert resolver.pauses == [1.0, 1.2, 1.44]
    again = "Temporary failure in name resolution: `vpn.example.com:51820'. Trying again in"
    assert resolver.notes == [
        f"{again} 1.00 seconds...",
        f"{again} 1.20 seconds...",
        "Too many open files: `vpn.example.com:51820'. Trying again in 1.44 seconds...",
    ]


def test_resolution_gives_up_after_the_given_number_of_retries() -> None:
    resolver = Resolver(AGAIN)
    with pytest.raises(OperationError, match=r"Temporary failure in name resolution: `vpn\.example\.com:51820'"):
        resolver.resolve(NAME, retries=15)
    assert len(resolver.calls) == 16
    assert resolver.pauses[-1] < 20 < sum(resolver.pauses)


def test_no_retries_means_one_attempt() -> None:
    resolver = Resolver(AGAIN)
    with pytest.raises(OperationError):
        resolver.resolve(NAME, retries=0)
    assert len(resolver.calls) == 1
    assert resolver.notes == []


def test_infinite_retries_have_pauses_of_at_most_twenty_seconds() -> None:
    resolver = Resolver(*[AGAIN] * 60, FOUND)
    assert resolver.resolve(NAME, retries=None) == SocketAddress("192.0.2.7", 51820)
    assert resolver.pauses[-1] == max(resolver.pauses) == 20.0
    assert len(resolver.pauses) == 60


@pytest.mark.parametrize("code", [socket.EAI_NONAME, socket.EAI_FAIL, socket.EAI_NODATA])
@pytest.mark.parametrize("retries", [15, None])
def test_a_permanent_failure_is_not_retried(code: int, retries: int | None) -> None:
    resolver = Resolver(socket.gaierror(code, "Name or service not known"))
    with pytest.raises(OperationError, match="Name or service not known"):
        resolver.resolve(NAME, retries=retries)
    assert resolver.pauses == []


def test_an_address_of_another_kind_is_refused() -> None:
    with pytest.raises(OperationError, match=r"Neither IPv4 nor IPv6 address found: `vpn\.example\.com:51820'"):
        Resolver([(socket.AF_UNIX, 0, 0, "", "x")]).resolve(NAME)


def test_ten_thousand_numeric_endpoints_take_half_a_second() -> None:
    import time

    start = time.process_time()
    for number in range(10_000):
        resolve(Endpoint(f"10.0.{number // 250}.{number % 250}", "51820"))
    assert time.process_time() - start < 0.5


@pytest.mark.parametrize(
    ("value", "retries"),
    [
        ("0", 0),
        ("3", 3),
        (" 7", 7),
        ("+4", 4),
        ("", 0),
        ("-0", 0),
        ("2147483647", 2147483647),
        ("0" * 9999 + "2", 2),
        ("infinity", None),
    ],
)
def test_the_variable_is_read_as_by_wg(value: str, retries: int | None) -> None:
    assert retries_of({"WG_ENDPOINT_RESOLUTION_RETRIES": value}) == retries


def test_without_the_variable_there_are_fifteen_retries() -> None:
    assert retries_of({}) == 15


@pytest.mark.parametrize(
    "value", ["x", "3x", " ", "-1", "2147483648", "Infinity", "1 ", "+", "٣", "0x5", "9" * 9999]
)
def test_an_invalid_variable_has_the_message_of_wg(value: str) -> None:
    with pytest.raises(OperationError, match="Unable to parse WG_ENDPOINT_RESOLUTION_RETRIES: `"):
        retries_of({"WG_ENDPOINT_RESOLUTION_RETRIES": value})


NAMES = [Endpoint(f"host{number}.example.net", "51820") for number in range(40)]
ANYWHERE = SocketAddress("198.51.100.1", 51820)


def test_unanswered_names_are_looked_up_at_once_within_one_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """The limit is for all names together; in sequence, the second lookup would not begin before it ends."""
    started = threading.Semaphore(0)
    never = threading.Event()
    readings = iter((0.0,))

    def hang(*_: object) -> Any:
        started.release()
        never.wait(60)
        return []

    def monotonic() -> float:
        """The clock stands still until all lookups have begun; then the limit is over."""
        for first in readings:
            return first
        assert all(started.acquire(timeout=60) for _ in NAMES)
        return 1.0

    monkeypatch.setattr("wgquick.system.wireguard.resolve.time", SimpleNamespace(monotonic=monotonic))
    resolves_to = name_matcher(NAMES, patience=1, getaddrinfo=hang)
    assert all(resolves_to(name, ANYWHERE) for name in NAMES)
    assert not started.acquire(blocking=False)
    never.set()


def test_an_answered_name_counts_although_another_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    never = threading.Event()
    readings = iter((0.0, 0.0))  # the second one is taken before the wait for the answer that comes

    def answer(host: bytes, *_: object) -> Any:
        if host == b"host0.example.net":
            never.wait(60)
        return FOUND

    clock = SimpleNamespace(monotonic=lambda: next(readings, 60.0))
    monkeypatch.setattr("wgquick.system.wireguard.resolve.time", clock)
    resolves_to = name_matcher(NAMES[:2], patience=60, getaddrinfo=answer)
    never.set()
    assert resolves_to(NAMES[0], ANYWHERE)
    assert resolves_to(NAMES[1], SocketAddress("192.0.2.7", 51820))
    assert not resolves_to(NAMES[1], ANYWHERE)


def test_a_name_that_does_not_exist_is_kept() -> None:
    resolver = Resolver(socket.gaierror(socket.EAI_NONAME, "Name or service not known"))
    resolves_to = name_matcher([*NAMES, *NAMES], getaddrinfo=resolver.getaddrinfo)
    assert resolves_to(NAMES[0], ANYWHERE)
    assert len(resolver.calls) == len(NAMES)


def test_a_numeric_endpoint_is_compared_without_a_lookup() -> None:
    resolver = Resolver(FOUND)
    resolves_to = name_matcher([Endpoint("198.51.100.1", "51820")], getaddrinfo=resolver.getaddrinfo)
    assert resolves_to(Endpoint("198.51.100.1", "51820"), ANYWHERE)
    assert not resolves_to(Endpoint("198.51.100.2", "51820"), ANYWHERE)
    assert resolver.calls == []
