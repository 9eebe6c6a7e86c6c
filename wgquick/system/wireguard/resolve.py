"""Resolves endpoints as `wg` does: getaddrinfo(3), with retries after temporary failures."""

from __future__ import annotations

import _socket
import time
from _socket import AF_INET, AF_INET6, AF_UNSPEC, EAI_FAIL, EAI_NODATA, EAI_NONAME, IPPROTO_UDP, SOCK_DGRAM

from wgquick.errors import OperationError, UnresolvedError
from wgquick.lean import TYPE_CHECKING, suppress
from wgquick.net import SocketAddress, without_keys
from wgquick.options import RETRIES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from typing import Any

    from wgquick.net import Endpoint

_DEFAULT_RETRIES = 15
_INT_MAX = 2**31 - 1
_FIRST_PAUSE = 1_000_000  # microseconds, wg's unit
_LONGEST_PAUSE = 20_000_000
_SAVE_PATIENCE = 2.0  # seconds that down waits
_UP_PATIENCE = 5.0  # seconds that up waits with no_wait_for_dns, mostly during boot
_MOST_THREADS = 64
_PERMANENT = (EAI_NONAME, EAI_FAIL, EAI_NODATA)


def retries_of(environ: Mapping[str, str]) -> int | None:
    """The number of retries: WG_ENDPOINT_RESOLUTION_RETRIES, 15 if it is not set, None for `infinity`."""
    value = environ.get(RETRIES)
    if value is None:
        return _DEFAULT_RETRIES
    if value == "infinity":
        return None
    if (number := _strtoul(value)) is None or number > _INT_MAX:
        raise OperationError(
            f"Unable to parse {RETRIES}: `{value}'", remedy="Set it to a number or to `infinity', or unset it."
        )
    return number


def _strtoul(text: str) -> int | None:
    """strtoul(3) over the whole text; "" is 0, and a negative number becomes huge."""
    digits = text.lstrip(" \t\n\v\f\r")
    sign = digits[:1] if digits[:1] in ("+", "-") else ""
    digits = digits.removeprefix(sign)
    if not text:
        return 0
    if not (digits.isascii() and digits.isdigit()):
        return None
    significant = digits.lstrip("0")
    huge = len(significant) > len(str(_INT_MAX)) or (sign == "-" and significant)  # int() limits the digits
    return _INT_MAX + 1 if huge else int(significant or "0")


def resolve(
    endpoint: Endpoint,
    *,
    retries: int | None = _DEFAULT_RETRIES,
    sleep: Callable[[float], object] = time.sleep,
    getaddrinfo: Callable[..., Any] = _socket.getaddrinfo,
    note: Callable[[str], object] = lambda _: None,
) -> SocketAddress:
    """The first address of an endpoint; `note` takes a line for each failure that is retried, worded as in wg."""
    numeric = _numeric(endpoint)
    if numeric is not None:
        return numeric
    named = f"`{without_keys(str(endpoint))}'"
    pause = _FIRST_PAUSE
    while True:
        try:
            return _first(endpoint, getaddrinfo)
        except OSError as error:
            reason = f"{error.strerror}: {named}"
            if (isinstance(error, _socket.gaierror) and error.errno in _PERMANENT) or retries == 0:
                raise _unresolved(endpoint, reason) from None
        retries = None if retries is None else retries - 1
        note(f"{reason}. Trying again in {pause / 1e6:.2f} seconds...")
        sleep(pause / 1e6)
        pause = min(_LONGEST_PAUSE, pause * 6 // 5)


def _unresolved(endpoint: Endpoint, reason: str) -> UnresolvedError:
    """The error for a name, or for an address with a zone that is not a link."""
    address, zone, link = endpoint.host.partition("%")
    if not (zone and ":" in address):
        return UnresolvedError(reason, endpoint, remedy="Check the endpoint's host name and the name servers.")
    named = without_keys(str(endpoint))
    what = f"there is no link `{link}': `{named}'"
    return UnresolvedError(what, endpoint, remedy="Write the name of a link after the `%'.")


def resolved_now(
    endpoints: Iterable[Endpoint],
    *,
    patience: float = _UP_PATIENCE,
    getaddrinfo: Callable[..., Any] = _socket.getaddrinfo,
) -> dict[Endpoint, SocketAddress]:
    """The first address of each endpoint that can be resolved.

    All names are asked at once; `patience` limits all queries together, in seconds.
    """
    found: dict[Endpoint, SocketAddress] = {}
    names = []
    for endpoint in dict.fromkeys(endpoints):
        numeric = _numeric(endpoint)
        if numeric is None:
            names.append(endpoint)
        else:
            found[endpoint] = numeric
    answers = _answers(names, patience, getaddrinfo) if names else {}
    return found | {endpoint: answer[0] for endpoint, answer in answers.items() if answer}


def name_matcher(
    endpoints: Iterable[Endpoint],
    *,
    patience: float = _SAVE_PATIENCE,
    getaddrinfo: Callable[..., Any] = _socket.getaddrinfo,
) -> Callable[[Endpoint, SocketAddress], bool]:
    """A function that tells whether an endpoint currently resolves to an address; all names are asked at once.

    `patience` limits all queries together, in seconds. Without an answer in that time the result is True, so that
    the name is kept.
    """
    names = [endpoint for endpoint in dict.fromkeys(endpoints) if _numeric(endpoint) is None]
    answers = _answers(names, patience, getaddrinfo) if names else {}

    def resolves_to(endpoint: Endpoint, address: SocketAddress) -> bool:
        numeric = _numeric(endpoint)
        if numeric is not None:
            return numeric == address
        return endpoint not in answers or address in answers[endpoint]

    return resolves_to


def _answers(
    names: list[Endpoint], patience: float, getaddrinfo: Callable[..., Any]
) -> dict[Endpoint, tuple[SocketAddress, ...]]:
    """The addresses of the names that are answered in time."""
    from queue import Empty, SimpleQueue

    left = names[::-1]
    answered: SimpleQueue[tuple[Endpoint, tuple[SocketAddress, ...] | None]] = SimpleQueue()

    def work() -> None:
        while left:
            with suppress(IndexError):  # another thread took the last one
                endpoint = left.pop()
                answered.put((endpoint, _found(endpoint, getaddrinfo)))

    answers: dict[Endpoint, tuple[SocketAddress, ...]] = {}
    deadline = time.monotonic() + patience
    expected = len(names) if _start_threads(work, min(len(names), _MOST_THREADS)) else 0
    with suppress(Empty):
        for _ in range(expected):
            endpoint, found = answered.get(timeout=max(0.0, deadline - time.monotonic()))
            if found is not None:
                answers[endpoint] = found
    left.clear()
    return answers


def addresses(endpoint: Endpoint) -> tuple[SocketAddress, ...] | None:
    """All of an endpoint's addresses, in the order of getaddrinfo(3); None if they cannot be looked up."""
    return _found(endpoint, _socket.getaddrinfo)


def _found(endpoint: Endpoint, getaddrinfo: Callable[..., Any]) -> tuple[SocketAddress, ...] | None:
    """The endpoint's addresses; None if they cannot be looked up."""
    try:
        return tuple(map(_socket_address, _ask(endpoint, getaddrinfo)))
    except (OSError, ValueError):
        return None


def _start_threads(work: Callable[[], None], count: int) -> int:
    """Start daemon threads, which do not keep the process from ending; returns how many the system allowed."""
    from threading import Thread

    for started in range(count):
        try:
            Thread(target=work, daemon=True).start()
        except RuntimeError:
            return started
    return count


def _numeric(endpoint: Endpoint) -> SocketAddress | None:
    """The address of a numeric endpoint, as thousands of look-ups would take long; None for a name."""
    host, port = endpoint
    if not (port.isascii() and port.isdigit() and len(port) <= 5 and int(port) <= 65535):
        return None
    try:
        family = AF_INET6 if ":" in host else AF_INET
        return SocketAddress(_socket.inet_ntop(family, _socket.inet_pton(family, host)), int(port))
    except (OSError, ValueError):
        return None


def _first(endpoint: Endpoint, getaddrinfo: Callable[..., Any]) -> SocketAddress:
    found = _interruptibly(lambda: _ask(endpoint, getaddrinfo))[0]
    if found[0] not in (AF_INET, AF_INET6):
        what = f"Neither IPv4 nor IPv6 address found: `{without_keys(str(endpoint))}'"
        raise UnresolvedError(what, endpoint, remedy="Check the endpoint's host name.")
    return _socket_address(found)


def _ask(endpoint: Endpoint, getaddrinfo: Callable[..., Any]) -> Any:
    """Look the host up as bytes, as wg does: Python would encode text by IDNA."""
    host = endpoint.host.encode("utf-8", "surrogateescape")
    return getaddrinfo(host, endpoint.port, AF_UNSPEC, SOCK_DGRAM, IPPROTO_UDP)


def _interruptibly(ask: Callable[[], Any]) -> Any:
    """Ask in a thread, so that a signal is handled at once and not when getaddrinfo(3) returns."""
    from threading import Thread

    answers: list[Any] = []
    errors: list[BaseException] = []

    def work() -> None:
        try:
            answers.append(ask())
        except BaseException as error:
            errors.append(error)

    thread = Thread(target=work, daemon=True)
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return answers[0]


def _socket_address(found: Any) -> SocketAddress:
    family, _, _, _, address = found
    scope = address[3] if family == AF_INET6 else 0
    return SocketAddress(address[0].partition("%")[0], address[1], scope)
