"""What doctor asks of a machine beyond the executor's Host; `wgquick.system.inspection` has it."""

from __future__ import annotations

from wgquick.lean import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from contextlib import AbstractContextManager

    from wgquick.datagram import Datagram, IcmpError
    from wgquick.observations import Arrivals, Echo, Foreign, LinkState, PathMtu, Rulesets, Way


class Senses(Protocol):
    """Everything is of the calling thread's network namespace, and nothing changes the host."""

    def links(self) -> list[LinkState]:
        """All links with their counters."""

    def ways(self, wanted: Iterable[tuple[str, int, str]]) -> list[Way]:
        """The route to each of the addresses, which come with a mark and a source ("": any)."""

    def foreign_routes(self, name: str) -> list[Foreign]:
        """The routes of the main table through other links than `name`."""

    def rulesets(self) -> Rulesets:
        """The firewalls' rules."""

    def send_outside(
        self, source_port: int, address: str, port: int, mark: int = 0, payload: bytes = b"", scope: int = 0
    ) -> int:
        """Send a datagram from the device's own port; returns the errno, 0 if it went out."""

    def path_mtu(self, address: str, *, mark: int = 0, scope: int = 0, patience: float = 1.0) -> PathMtu:
        """The MTU of the path to an address outside of the tunnel; OperationError if nothing can be sent."""

    @property
    def Prober(self) -> Callable[[str], Prober]:  # noqa: N802
        """Makes what probes the link of that name."""

    @property
    def Capture(self) -> Callable[[int, str], AbstractContextManager[Capture]]:  # noqa: N802
        """Makes what overhears a port, but not the link of that name; OperationError if it may not."""


class Capture(Protocol):
    """Overhears a UDP port."""

    def read(self, seconds: float) -> Iterator[Datagram | IcmpError]:
        """What comes and goes in that many seconds, as it comes."""


class Prober(Protocol):
    """Probes into one tunnel."""

    def close(self) -> None:
        """Stop seeing what comes."""

    def seen(self) -> Arrivals:
        """What was seen to come out of the tunnel up to now."""

    def reach(self, addresses: Sequence[str], deadline: float, enough: Callable[[set[str]], bool]) -> list[Echo]:
        """Probe all until `enough` of those that answered, or the monotonic `deadline`."""

    def passes(self, address: str, sizes: Sequence[int], patience: float) -> set[int]:
        """The sizes (whole IP packets, bytes) that pass unfragmented and are answered."""
