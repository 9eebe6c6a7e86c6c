"""`wgq metrics` on a tunnel, and promtool's verdict."""

from __future__ import annotations

import re
import signal
import subprocess
import urllib.request
from typing import TYPE_CHECKING

import pytest

from tests.netns.pair import ONE, pair, ping
from tests.netns.tunnels import WGQ, wgq
from tests.resolvers import unpacked
from wgquick.options import METRICS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.netns.pair import Pair


@pytest.fixture(scope="module")
def ends() -> Iterator[Pair]:
    with pair() as made:
        made.write("PersistentKeepalive = 25")
        wgq(made.two, "up", "wg0")
        wgq(made.one, "up", "wg0")
        ping(made.one, "10.7.0.2")
        yield made


@pytest.mark.parametrize("names", METRICS)
def test_promtool_accepts_the_metrics(ends: Pair, names: str) -> None:
    printed = wgq(ends.one, "metrics", "--names", names).stdout
    assert ends.key_of_two in printed
    assert "the other" in printed
    assert ONE not in printed
    promtool = unpacked("prometheus") / "usr/bin/promtool"  # the installed package would start a service
    done = subprocess.run(
        [promtool, "check", "metrics"], input=printed, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_a_textfile_is_replaced_at_once_and_readable(ends: Pair) -> None:
    ends.one.run(["mkdir", "/run/textfiles"])
    for _ in range(2):
        wgq(ends.one, "metrics", "wg0", "--textfile", "/run/textfiles/wg.prom")
    assert ends.one.out("ls", "/run/textfiles").split() == ["wg.prom"]
    assert ends.one.out("stat", "-c", "%a", "/run/textfiles/wg.prom").strip() == "644"
    assert "wireguard_device_info" in ends.one.out("cat", "/run/textfiles/wg.prom")
    ends.one.run(["ln", "-s", "textfiles/wg.prom", "/run/link"])
    wgq(ends.one, "metrics", "--textfile", "/run/link")
    assert ends.one.out("readlink", "/run/link").strip() == "textfiles/wg.prom"
    ends.one.run(["mkfifo", "/run/pipe"])
    for special in ("/run/pipe", "/run/textfiles"):
        assert "not a regular file" in wgq(ends.one, "metrics", "--textfile", special, status=1).stderr
    refused = wgq(ends.one, "metrics", "--textfile", "/run/none/wg.prom", status=1).stderr
    assert "cannot write /run/none/wg.prom: " in refused
    assert refused.endswith("\n  Name a file in a directory that this user may write to.\n")


def _scraped(port: int) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=60) as answer:
        return str(answer.read().decode())


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_metrics_are_served_until_a_signal_comes(ends: Pair, number: int, status: int) -> None:
    served = ends.one.popen([*WGQ, "metrics", "--listen", "0"], stderr=subprocess.PIPE)
    assert served.stderr is not None
    port = int(re.findall(rb"127.0.0.1:(\d+)/metrics", served.stderr.readline())[0])
    assert ends.key_of_two in ends.one.call(_scraped, port)
    taken = wgq(ends.one, "metrics", "--listen", str(port), status=1).stderr
    assert f"port {port}" in taken
    served.send_signal(number)
    assert served.wait(60) == status
    served.stderr.close()


def test_invalid_options_of_metrics_are_refused(ends: Pair) -> None:
    assert "loopback" in wgq(ends.one, "metrics", "--listen", "192.0.2.1:9586", status=1).stderr
    assert "one of" in wgq(ends.one, "metrics", "--names", "mine", status=1).stderr
    assert (
        "exclude each other" in wgq(ends.one, "metrics", "--listen", "1", "--textfile", "/run/x", status=1).stderr
    )
    assert "is not up" in wgq(ends.one, "metrics", "wg9", status=1).stderr
