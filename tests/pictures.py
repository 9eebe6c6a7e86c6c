"""Draws `wgq status` and `wgq doctor` as a terminal shows them, for the documentation.

`python -m tests.pictures` writes docs/status.svg and docs/doctor.svg.
A unit test fails if their text is not what wgq prints.
"""

from __future__ import annotations

import html
import io
import os
import re
import time
from pathlib import Path

from rich.color import ColorSystem
from rich.console import Console
from rich.style import Style
from rich.terminal_theme import SVG_EXPORT_THEME
from rich.text import Text

from wgquick.diagnosis.doctor.cause import Cause
from wgquick.diagnosis.finding import ERROR, WARNING
from wgquick.show import doctor
from wgquick.show import status as show
from wgquick.status.values import DnsStatus, Drift, Error, InterfaceStatus, PeerStatus, Status

DOCS = Path(__file__).parents[1] / "docs"
_NOW = 1_795_000_000.0  # in November 2026
# rich's own template loads a font from the network and draws a window.
_FORM = """<svg class="rich-terminal" viewBox="0 0 {width} {height}" xmlns="http://www.w3.org/2000/svg">
<style>
.{unique_id}-matrix {{ font-family: monospace; font-size: {char_height}px; line-height: {line_height}px; }}
{styles}
</style>
<defs>{lines}</defs>
<rect fill="#292929" width="{width}" height="{height}" rx="8"/>
<g transform="translate({terminal_x}, {terminal_y})">{backgrounds}<g class="{unique_id}-matrix">{matrix}</g></g>
</svg>
"""


_ERROR = Error("handshake-given-up", "no answer to handshakes for 90 seconds")


def _peer(
    n: int,
    name: str,
    state: str,
    endpoint: str,
    age: float | None = None,
    rx: int = 0,
    tx: int = 0,
    **more: object,
) -> PeerStatus:
    key = f"{'ABCDEFGH'[n] * 43}="
    blank: dict[str, object] = {
        "public_key": key,
        "name": name,
        "state": state,
        "wanted": False,
        "on_device": True,
        "endpoint": endpoint or None,
        "configured_endpoint": None,
        "roamed": None,
        "allowed_ips": (f"10.7.0.{n + 2}/32",),
        "latest_handshake": None,
        "handshake_age": age,
        "rx_bytes": rx,
        "tx_bytes": tx,
        "rx_rate": None,
        "tx_rate": None,
        "persistent_keepalive": 0,
    }
    return PeerStatus(**{**blank, **more})  # type: ignore[arg-type]


EXAMPLE = Status(
    _NOW,
    (
        InterfaceStatus(
            name="wg0",
            public_key="Sy5D/2dDRkPceEUCSEmGYln2kHGzkOkmdU0AaKU4b1c=",
            backend="wgq-userspace",
            up=True,
            since=_NOW - 93_784,
            by="wgq",
            file="/etc/wireguard/wg0.conf",
            listen_port=51820,
            mtu=1420,
            mtu_given=False,
            table="main",
            addresses=("10.7.0.1/24", "fd00:7::1/64"),
            dns=DnsStatus("resolved", ("10.7.0.53",), ("example.org",)),
            kill_switch=False,
            drift=(Drift("keepalive-differs", "keepalive 25 s in the file, off on the device", f"{'B' * 43}="),),
            peers=(
                _peer(0, "laptop", "up", "198.51.100.7:40112", 37.0, 734_003_200, 88_080_384),
                _peer(1, "office", "up", "203.0.113.5:51821", 102.0, 9_175_040, 3_355_443, roamed=True),
                _peer(2, "phone", "idle", "192.0.2.44:38211", 8_100.0, 1_048_576, 524_288),
                _peer(3, "backup site", "stale", "203.0.113.99:51820", 1_260.0, 40_960, 118_784, last_error=_ERROR),
                _peer(4, "old tablet", "disabled", "", on_device=False),
            ),
        ),
    ),
)


CAUSES = (
    Cause(
        "knock-unknown-key",
        WARNING,
        "certain",
        None,
        f"198.51.100.7:40112 sends handshakes with the key {'C' * 43}=, which no peer of wg0 has",
        (f"3 initiations from 198.51.100.7:40112 (the last 5 s ago) with the key {'C' * 43}=, which no peer has",),
        f"add a [Peer] with PublicKey = {'C' * 43}=, or correct the PublicKey of the peer that has it",
    ),
    Cause(
        "rp-filter",
        ERROR,
        "certain",
        f"{'B' * 43}=",
        "the reverse path filter drops answers from 203.0.113.5:51821, which arrive on eth0",
        (
            "answers from 203.0.113.5:51821 arrive on eth0 but do not reach UDP port 51820",
            "the route back to 203.0.113.5 uses wg0",
            "rp_filter is 1 (strict)",
        ),
        "set net.ipv4.conf.eth0.rp_filter=2 (and net.ipv4.conf.all.rp_filter if it is 1)",
    ),
)


def printed() -> dict[str, str]:
    """The output of each verb for its example."""
    return {"status": _status(), "doctor": doctor.text("wg0", CAUSES)}


def _status() -> str:
    """The output of `wgq status` for the example on a terminal, in UTC."""
    zone = os.environ.get("TZ")
    try:
        _set_zone("UTC")
        return show.text(EXAMPLE, _painted)
    finally:
        _set_zone(zone)


def _set_zone(zone: str | None) -> None:
    if zone is None:
        os.environ.pop("TZ", None)
    else:
        os.environ["TZ"] = zone
    time.tzset()


def _painted(style: str, text: str) -> str:
    return Style.parse(style).render(text, color_system=ColorSystem.STANDARD)


def drawn(verb: str, text: str) -> str:
    """The picture of a command and its output."""
    console = Console(record=True, width=show.WIDTH, file=io.StringIO(), force_terminal=True, highlight=False)
    console.print(Text.from_ansi(f"$ wgq {verb}\n{text}"), end="")
    return console.export_svg(title="", code_format=_FORM, unique_id=verb, theme=SVG_EXPORT_THEME)


def characters(picture: str) -> str:
    """The text of a picture without the blanks."""
    texts = re.findall(r"<text [^>]*>([^<]*)</text>", picture)
    return "".join("".join(map(html.unescape, texts)).split())


if __name__ == "__main__":
    for each, shown in printed().items():
        (DOCS / f"{each}.svg").write_text(drawn(each, shown))
