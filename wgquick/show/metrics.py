"""The status as metrics for Prometheus, through prometheus-client, in the names of two known exporters. No secrets.

`mdlayher`: those of mdlayher/wireguard_exporter, with the labels that change (endpoint, name, AllowedIPs) in
separate info metrics. `mindflavor`: those of MindFlavor/prometheus_wireguard_exporter, where each metric has all
labels.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from prometheus_client.metrics_core import Metric

    from wgquick.status.values import InterfaceStatus, PeerStatus, Status


class StatusCollector(Collector):
    """Reads the status at each scrape."""

    def __init__(self, read: Callable[[], Status], names: str) -> None:
        self._read = read
        self._families = FAMILIES[names]

    def collect(self) -> Iterable[Metric]:
        """The metrics of all interfaces that can be read, and of the peers that their devices have."""
        return self._families(self._read())

    def describe(self) -> Iterable[Metric]:
        """Nothing, so that a registry does not read the status before the first scrape."""
        return ()


def registry(read: Callable[[], Status], names: str) -> CollectorRegistry:
    """A registry with only these metrics; `names` is one of FAMILIES."""
    made = CollectorRegistry(auto_describe=False)
    made.register(StatusCollector(read, names))
    return made


def text(status: Status, names: str) -> str:
    """The metrics in Prometheus's text format."""
    return generate_latest(registry(lambda: status, names)).decode()


def _peers(status: Status) -> Iterator[tuple[InterfaceStatus, PeerStatus]]:
    for interface in status.interfaces:
        for peer in interface.peers:
            if peer.on_device:
                yield interface, peer


def _mdlayher(status: Status) -> Iterator[Metric]:
    labels = ["device", "public_key"]
    device = GaugeMetricFamily("wireguard_device_info", "A WireGuard device.", labels=labels)
    info = GaugeMetricFamily(
        "wireguard_peer_info", "A peer; public_key is the peer's.", labels=[*labels, "endpoint", "name"]
    )
    networks = GaugeMetricFamily(
        "wireguard_peer_allowed_ips_info",
        "One of the networks of a peer's AllowedIPs.",
        labels=[*labels, "allowed_ips", "family"],
    )
    received = CounterMetricFamily(
        "wireguard_peer_receive_bytes_total", "Bytes received from a peer.", labels=labels
    )
    sent = CounterMetricFamily("wireguard_peer_transmit_bytes_total", "Bytes sent to a peer.", labels=labels)
    handshake = GaugeMetricFamily(
        "wireguard_peer_last_handshake_seconds",
        "Time of the last handshake with a peer, in seconds since the epoch; 0 if there was none.",
        labels=labels,
    )
    for interface in status.interfaces:
        if interface.backend:
            device.add_metric([interface.name, interface.public_key or ""], 1)
    for interface, peer in _peers(status):
        key = [interface.name, peer.public_key]
        info.add_metric([*key, peer.endpoint or "", peer.name], 1)
        for network in peer.allowed_ips:
            networks.add_metric([*key, network, "IPv6" if ":" in network else "IPv4"], 1)
        received.add_metric(key, peer.rx_bytes)
        sent.add_metric(key, peer.tx_bytes)
        handshake.add_metric(key, int(peer.latest_handshake or 0))
    return iter((device, info, networks, received, sent, handshake))


def _mindflavor(status: Status) -> Iterator[Metric]:
    labels = ["interface", "public_key", "allowed_ips", "friendly_name"]
    sent = CounterMetricFamily("wireguard_sent_bytes_total", "Bytes sent to the peer", labels=labels)
    received = CounterMetricFamily("wireguard_received_bytes_total", "Bytes received from the peer", labels=labels)
    handshake = GaugeMetricFamily(
        "wireguard_latest_handshake_seconds", "UNIX timestamp seconds of the last handshake", labels=labels
    )
    delay = GaugeMetricFamily(
        "wireguard_latest_handshake_delay_seconds", "Seconds from the last handshake", labels=labels
    )
    for interface, peer in _peers(status):
        values = [interface.name, peer.public_key, ",".join(peer.allowed_ips), peer.name]
        sent.add_metric(values, peer.tx_bytes)
        received.add_metric(values, peer.rx_bytes)
        handshake.add_metric(values, int(peer.latest_handshake or 0))
        if peer.handshake_age is not None:
            delay.add_metric(values, round(peer.handshake_age, 3))
    return iter((sent, received, handshake, delay))


FAMILIES: dict[str, Callable[[Status], Iterable[Metric]]] = {"mdlayher": _mdlayher, "mindflavor": _mindflavor}
"""The metrics for each value of --names."""
