"""systemd-resolved over D-Bus (org.freedesktop.resolve1(5)), like `resolvectl dns` and `resolvectl domain`."""

from __future__ import annotations

import os
from _socket import AF_INET, AF_INET6, if_nametoindex, inet_ntop, inet_pton

from wgquick import patience
from wgquick.errors import OperationError, reason_of
from wgquick.lean import TYPE_CHECKING
from wgquick.system.dns import RESOLV_CONF
from wgquick.transcript import command, note

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any, Self

    from jeepney import Message

    from wgquick.system.dns import LinkDns, LinkServers
    from wgquick.transcript import Line

_NAME = "org.freedesktop.resolve1"
_PATH = "/org/freedesktop/resolve1"
_MANAGER = f"{_NAME}.Manager"
_LINK = f"{_NAME}.Link"
_BUS = "/var/run/dbus/system_bus_socket"
_PATIENCE = 25.0  # seconds, D-Bus's default
_EVERYTHING = "."
_NSSWITCH = "/etc/nsswitch.conf"
_STUBS = frozenset({"127.0.0.53", "127.0.0.54"})
_UNASKED = note(
    f"{RESOLV_CONF} does not name systemd-resolved: programs that read this file do not use the tunnel's DNS."
)
_NO_LINK, _NO_BUS, _ELSEWHERE = "NoSuchLink", "NoBus", "Elsewhere"
# Errors after which there is nothing to remove: the DNS disappears with the link or the daemon.
_GONE = frozenset({_NO_LINK, _NO_BUS, _ELSEWHERE, "NameHasNoOwner", "ServiceUnknown"})
_REMEDY = "`systemctl status systemd-resolved' shows its state; `--dns file' and `--dns off' do not need it."


class _BusError(OperationError):
    """An error; `kind` is the last part of its D-Bus name, or one of the words above."""

    def __init__(self, what: str, kind: str = "", remedy: str = _REMEDY) -> None:
        super().__init__(what, remedy=remedy)
        self.kind = kind


def is_running() -> bool:
    """Whether the daemon is on the system bus and manages this network namespace."""
    if "DBUS_SYSTEM_BUS_ADDRESS" not in os.environ and not os.path.exists(_BUS):
        return False  # without importing the D-Bus client
    try:
        with _Bus():
            return True
    except _BusError:
        return False


def every_server() -> tuple[tuple[int, str], ...]:
    """All DNS servers that the daemon knows, each with its link's index (0: the host's own)."""
    with _Bus() as bus:
        return tuple(
            (link, inet_ntop(family, bytes(address))) for link, family, address in bus.manager_property("DNS")
        )


class Resolved:
    """Sets a link's DNS in systemd-resolved."""

    def set(self, name: str, dns: LinkDns) -> None:
        """SetLinkDNS and SetLinkDomains; the second also without domains, as it removes the earlier ones."""
        link = _index(name)
        servers = [_packed(server) for server in dns.servers]
        with _Bus() as bus:
            bus.call("SetLinkDNS", "ia(iay)", link, servers)
            bus.call("SetLinkDomains", "ia(sb)", link, list(_domains(dns)))

    def unset(self, name: str) -> None:
        """RevertLink; no error if the link, the daemon or the bus is gone, as the link's DNS is gone too."""
        try:
            link = _index(name)
            with _Bus() as bus:
                bus.call("RevertLink", "i", link)
        except _BusError as refusal:
            if refusal.kind not in _GONE:
                raise

    def current(self, name: str) -> LinkServers | None:
        """The link's properties DNS and Domains."""
        try:
            link = _index(name)
            with _Bus() as bus:
                (path,) = bus.call("GetLink", "i", link)
                servers, domains = bus.link_property(path, "DNS"), bus.link_property(path, "Domains")
        except _BusError:
            return None
        texts = tuple(inet_ntop(family, bytes(address)) for family, address in servers)
        search = tuple(domain for domain, only_routes in domains if not only_routes)
        return (texts, search) if texts else None

    def set_lines(self, name: str, dns: LinkDns) -> tuple[Line, ...]:
        """The transcript lines of `set`: the equivalent resolvectl(1) commands."""
        words = [f"~{domain}" if only_routes else domain for domain, only_routes in _domains(dns)]
        lines = (
            command(f"resolvectl dns {name} {' '.join(dns.servers)}"),
            command(f"resolvectl domain {name} {' '.join(words) or repr('')}"),
        )
        return lines if _is_asked() else (*lines, _UNASKED)

    def unset_lines(self, name: str) -> tuple[Line, ...]:
        """The transcript lines of `unset`."""
        return (command(f"resolvectl revert {name}"),)


class _Bus:
    """The system bus with the daemon, for a `with` block; every failure is a _BusError."""

    def __enter__(self) -> Self:
        from jeepney.io.blocking import open_dbus_connection

        try:
            self._connection = open_dbus_connection("SYSTEM")
        except (OSError, RuntimeError, ValueError) as fault:
            raise _BusError(f"the D-Bus system bus cannot be reached: {reason_of(fault)}", _NO_BUS) from None
        try:
            self._require_resolved()
        except BaseException:
            self._connection.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def _require_resolved(self) -> None:
        """Check that the daemon is in this network namespace: in another one a link's number names another link."""
        from jeepney.bus_messages import message_bus

        (process,) = self._body(message_bus.GetConnectionUnixProcessID(_NAME))
        if not _shares_our_network(process):
            raise _BusError(
                "systemd-resolved runs in another network namespace and does not manage this one", _ELSEWHERE
            )

    def call(self, method: str, signature: str, *arguments: object) -> tuple[Any, ...]:
        """Call a method of the manager."""
        from jeepney import DBusAddress, new_method_call

        return self._body(new_method_call(DBusAddress(_PATH, _NAME, _MANAGER), method, signature, arguments))

    def manager_property(self, name: str) -> Any:
        """A property of the manager."""
        from jeepney import DBusAddress, Properties

        return self._body(Properties(DBusAddress(_PATH, _NAME, _MANAGER)).get(name))[0][1]

    def link_property(self, path: str, name: str) -> Any:
        """A property of a link's object."""
        from jeepney import DBusAddress, Properties

        return self._body(Properties(DBusAddress(path, _NAME, _LINK)).get(name))[0][1]

    def _body(self, message: Message) -> tuple[Any, ...]:
        from jeepney import HeaderFields, MessageType

        try:
            reply = self._connection.send_and_get_reply(message, timeout=patience.left(_PATIENCE))
        except UnicodeEncodeError:  # D-Bus strings are UTF-8
            raise _BusError("a DNS domain is not written in UTF-8", remedy="Save the file as UTF-8.") from None
        except OSError as fault:
            raise _BusError(f"systemd-resolved does not answer: {fault or 'timeout'}", "NoReply") from None
        if reply.header.message_type is MessageType.error:
            name = str(reply.header.fields[HeaderFields.error_name])
            text = reply.body[0] if reply.body else name
            raise _BusError(f"systemd-resolved refused: {text}", name.rpartition(".")[2])
        return tuple(reply.body)


def _is_asked() -> bool:
    """Whether programs query the daemon: through the server in resolv.conf, or through nss-resolve(8)."""
    if os.path.realpath(RESOLV_CONF).startswith("/run/systemd/resolve/"):
        return True
    asked = {words[1] for words in _lines(RESOLV_CONF) if words[0] == "nameserver" and len(words) > 1}
    return bool(asked & _STUBS) or any(words[0] == "hosts:" and "resolve" in words for words in _lines(_NSSWITCH))


def _lines(path: str) -> list[list[str]]:
    """The words of each non-empty line; empty if the file cannot be read."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return [words for line in file if (words := line.split())]
    except OSError:
        return []


def _index(name: str) -> int:
    try:
        return if_nametoindex(name)
    except OSError:
        raise _BusError(f"cannot set DNS: there is no link {name}", _NO_LINK, "") from None


def _packed(server: str) -> tuple[int, bytes]:
    """Family and address; a zone is left out, as the link determines it."""
    family = AF_INET6 if ":" in server else AF_INET
    try:
        return family, inet_pton(family, server.partition("%")[0])
    except (OSError, ValueError):
        raise _BusError(f"`{server}' is not the address of a DNS server", remedy="Correct the DNS line.") from None


def _shares_our_network(process: int) -> bool:
    """Whether a process is in our network namespace, by the inodes below /proc/PID/net, which anyone may read."""
    try:
        theirs, ours = (os.stat(f"/proc/{of}/net/dev") for of in (process, "thread-self"))
    except OSError:
        return False
    return os.path.samestat(theirs, ours)


def _domains(dns: LinkDns) -> Iterator[tuple[str, bool]]:
    """The domains, each with whether it only routes; `~.` routes all queries to this link."""
    yield from ((domain, False) for domain in dns.search)
    if dns.full_tunnel:
        yield _EVERYTHING, True
