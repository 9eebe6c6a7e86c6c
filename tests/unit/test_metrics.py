"""The status as Prometheus metrics."""

from __future__ import annotations

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.unit.statuses import NOW, interface, shown
from wgquick.cli import metrics as cli
from wgquick.errors import WgqError
from wgquick.options import METRICS
from wgquick.show.metrics import FAMILIES, text
from wgquick.status.values import InterfaceStatus, Status

STATUS = Status(
    NOW,
    (
        interface(
            shown(1, name='a "quoted\\ name', allowed_ips=("10.0.0.2/32", "fd00::2/128")),
            shown(2, latest_handshake=None, handshake_age=None, endpoint=None, allowed_ips=()),
            shown(3, on_device=False, state="disabled"),
            public_key="key of wg0",
        ),
        interface(shown(1, rx_bytes=2**60), name="wg1"),
        InterfaceStatus("broken", error="its daemon is silent"),
    ),
)
ONE, TWO = shown(1).public_key, shown(2).public_key


def samples(names: str) -> dict[object, float]:
    """The value of each sample by `key`."""
    families = text_string_to_metric_families(text(STATUS, names))
    return {key(sample.name, **sample.labels): sample.value for family in families for sample in family.samples}


def key(name: str, /, **labels: str) -> object:
    return name, frozenset(labels.items())


def test_metrics_can_have_the_names_of_mdlayhers_exporter() -> None:
    found = samples("mdlayher")
    one, two = {"device": "wg0", "public_key": ONE}, {"device": "wg0", "public_key": TWO}
    assert found[key("wireguard_device_info", device="wg0", public_key="key of wg0")] == 1
    assert found[key("wireguard_device_info", device="wg1", public_key="")] == 1
    assert found[key("wireguard_peer_info", **one, endpoint="192.0.2.1:51820", name='a "quoted\\ name')] == 1
    assert found[key("wireguard_peer_info", **two, endpoint="", name="")] == 1
    assert found[key("wireguard_peer_allowed_ips_info", **one, allowed_ips="10.0.0.2/32", family="IPv4")] == 1
    assert found[key("wireguard_peer_allowed_ips_info", **one, allowed_ips="fd00::2/128", family="IPv6")] == 1
    assert found[key("wireguard_peer_receive_bytes_total", **one)] == 1234567
    assert found[key("wireguard_peer_receive_bytes_total", device="wg1", public_key=ONE)] == 2**60
    assert found[key("wireguard_peer_transmit_bytes_total", **one)] == 999
    assert found[key("wireguard_peer_last_handshake_seconds", **one)] == NOW - 65
    assert found[key("wireguard_peer_last_handshake_seconds", **two)] == 0


def test_metrics_with_the_names_of_mindflavors_exporter() -> None:
    found = samples("mindflavor")
    one = {"interface": "wg0", "public_key": ONE, "allowed_ips": "10.0.0.2/32,fd00::2/128"}
    one["friendly_name"] = 'a "quoted\\ name'
    assert found[key("wireguard_sent_bytes_total", **one)] == 999
    assert found[key("wireguard_received_bytes_total", **one)] == 1234567
    assert found[key("wireguard_latest_handshake_seconds", **one)] == NOW - 65
    assert found[key("wireguard_latest_handshake_delay_seconds", **one)] == 65


@pytest.mark.parametrize("names", METRICS)
def test_peers_without_a_device_have_no_metrics(names: str) -> None:
    printed = text(STATUS, names)
    assert shown(3).public_key not in printed
    assert "broken" not in printed


def test_each_value_of_the_option_has_its_metrics() -> None:
    assert tuple(FAMILIES) == METRICS


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("9586", ("127.0.0.1", 9586)),
        ("localhost:1", ("127.0.0.1", 1)),
        ("127.1.2.3:9586", ("127.1.2.3", 9586)),
        ("[::1]:9586", ("::1", 9586)),
    ],
)
def test_metrics_are_served_on_loopback(text: str, place: tuple[str, int]) -> None:
    assert cli.place_of(text) == place


@pytest.mark.parametrize(
    "text", ["", "x", "65536", "0.0.0.0:1", "[::]:1", "192.0.2.1:1", "example.org:1", "::1", "1:"]
)
def test_other_places_for_metrics_are_refused(text: str) -> None:
    with pytest.raises(WgqError):
        cli.place_of(text)
