"""The protocols through which doctor reads the machine, besides Host (`wgquick.system.inspection`)."""

from __future__ import annotations

from wgquick.lean import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from contextlib import AbstractContextManager

    from wgquick.datagram import Datagram, IcmpError
    from wgquick.observations import Arrivals, Echo, Foreign, LinkState, Neighbour, PathMtu, Rulesets, Way
    from wgquick.routing import Query


class Inspector(Protocol):
    """Reads the calling thread's network namespace. No method changes the host."""

    def links(self) -> list[LinkState]:
        """All links with their counters."""

    def ways(self, wanted: Iterable[Query]) -> list[Way]:
        """The kernel's route for each query."""

    def silent_neighbours(self) -> frozenset[tuple[str, str]]:
        """Link and address of each neighbour that was asked for its link-layer address and has not answered."""

    def neighbours(self, wanted: Iterable[tuple[str, str, str]], seconds: float) -> list[Neighbour]:
        """What the kernel and the network say about each (Ethernet link, address, own IPv4 address or "")."""

    def heard_from(self, seconds: float) -> frozenset[str]:
        """The addresses at the other ends of TCP connections from which something came in the last seconds."""

    def foreign_routes(self, name: str) -> list[Foreign]:
        """The routes of the main table through other links than `name`."""

    def rulesets(self) -> Rulesets:
        """The rules of nftables and of iptables-legacy."""

    def send_outside(
        self,
        source_port: int,
        address: str,
        port: int,
        mark: int = 0,
        payload: bytes = b"",
        scope: int = 0,
        tos: int = 0,
    ) -> int:
        """Send a datagram from the device's own port; returns the errno, 0 if it was sent."""

    def path_mtu(self, address: str, *, mark: int = 0, scope: int = 0, patience: float = 1.0) -> PathMtu:
        """The MTU of the path to an address outside the tunnel; OperationError if nothing can be sent."""

    @property
    def Prober(self) -> Callable[[str], Prober]:  # noqa: N802
        """Creates the prober for the link of that name."""

    @property
    def Capture(self) -> Callable[[int, str], AbstractContextManager[Capture]]:  # noqa: N802
        """Creates a capture on a port, without the link of that name; OperationError if not permitted."""


class Capture(Protocol):
    """Captures datagrams of a UDP port."""

    def read(self, seconds: float) -> Iterator[Datagram | IcmpError]:
        """The datagrams and ICMP errors of the next seconds, as they arrive."""


class Prober(Protocol):
    """Probes into one tunnel."""

    def close(self) -> None:
        """Stop the capture on the link."""

    def seen(self) -> Arrivals:
        """The packets that came out of the tunnel so far."""

    def probe(self, addresses: Sequence[str], deadline: float, enough: Callable[[set[str]], bool]) -> list[Echo]:
        """Probe all addresses until `enough` accepts those that answered, or until the monotonic `deadline`."""

    def unbound(self, addresses: Sequence[str], seconds: float) -> list[Echo]:
        """Send echo requests by this host's own routes, as other programs do, not bound to the tunnel."""

    def beyond(
        self, addresses: Sequence[str], servers: Sequence[str], seconds: float, enough: Callable[[Arrivals], bool]
    ) -> Arrivals:
        """Send echo requests to addresses beyond the other end, until `enough` accepts what came out.

        DNS servers among them get queries and connections too.
        """

    def answering_servers(self, servers: Sequence[str], seconds: float) -> set[str]:
        """The DNS servers that answer a query, by this host's routes."""

    def sizer(self, address: str) -> AbstractContextManager[Sizer]:
        """Sends echo requests of given sizes to the address."""


class Sizer(Protocol):
    """Sends unfragmented echo requests to one address; sizes are those of IP packets, in bytes."""

    def ask(self, sizes: Iterable[int]) -> None:
        """Send a request of each size, in this order."""

    def answered(self, seconds: float) -> frozenset[int]:
        """The sizes that were answered so far; waits up to `seconds` for another one."""
