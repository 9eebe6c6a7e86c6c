"""The Python API, as another program uses it."""

from __future__ import annotations

import copy
import os
import pickle
import subprocess
import sys
import traceback
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import TYPE_CHECKING

import pytest

import wgquick
from tests.namespaces import host

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.namespaces import Namespace

KEY = "YAnz5TF+lXXJte14tji3zlMNq+hd2rYUIgJBgB3fBmk="
PRESHARED = "FpCyhws9cxwWoV4xELtfJvjJN+zQVRPISllRWgeopVE="
PEER = "xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg="
TEXT = f"""[Interface]
PrivateKey = {KEY}
Address = 10.0.0.1/24
PostUp = touch /run/up-%i
PostDown = touch /run/down-%i
[Peer]
PublicKey = {PEER}
PresharedKey = {PRESHARED}
AllowedIPs = 10.9.0.0/16
Endpoint = 192.0.2.9:51820
"""


@pytest.fixture
def machine() -> Iterator[Namespace]:
    with host() as made:
        made.uplink()
        yield made


def links() -> set[str]:
    return set(os.listdir("/sys/class/net"))


def test_parse_gives_the_validated_model() -> None:
    config = wgquick.parse(TEXT, name="ci0")
    assert isinstance(config, wgquick.WgQuickConfig)
    assert config.name == "ci0"
    assert str(config.peers[0].public_key) == PEER
    assert wgquick.parse(TEXT.encode(), name="ci0") == config


def test_no_secret_shows_in_repr_dump_or_traceback() -> None:
    config = wgquick.parse(TEXT)
    shown = [repr(config), str(config), repr(config.model_dump()), config.model_dump_json(), repr(config.settings)]
    try:
        wgquick.parse(TEXT.replace("AllowedIPs", "AlowedIPs"))
    except wgquick.ConfigError:
        shown.append(traceback.format_exc())
    with pytest.raises(TypeError):
        pickle.dumps(config)
    assert len(shown) == 6
    assert not any(secret in text for text in shown for secret in (KEY, PRESHARED))


def test_a_copy_of_a_configuration_is_the_same_configuration() -> None:
    config = wgquick.parse(TEXT)
    assert copy.copy(config) == copy.deepcopy(config) == config.model_copy(deep=True) == config


@pytest.mark.parametrize("name", ["", "a b", "../wg0", "a234567890123456"])
def test_an_invalid_name_is_refused_before_any_change(name: str) -> None:
    renamed = wgquick.parse(TEXT).model_copy(update={"name": name})
    for attempt in (
        lambda: wgquick.parse(TEXT, name=name),
        lambda: wgquick.up(renamed),
        lambda: wgquick.down(name),
    ):
        with pytest.raises(wgquick.WgqError, match="is not a valid interface name"):
            attempt()


@pytest.mark.parametrize(
    "error",
    [
        wgquick.WgqError("a", where="b", remedy="c"),
        wgquick.ConfigError("a", [wgquick.Diagnostic(1, 2, "b", "c", "d")]),
        wgquick.HookError("a", 7, remedy="b"),
        wgquick.OperationError("a", errno=5, where="b", status=2),
        wgquick.BatchError("a", [(3, 17)]),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_error_survives_pickling(error: wgquick.WgqError) -> None:
    found = pickle.loads(pickle.dumps(error))
    assert type(found) is type(error)
    assert (str(found), vars(found)) == (str(error), vars(error))


def test_read_accepts_a_path_object(tmp_path: Path) -> None:
    file = tmp_path / "ci0.conf"
    file.write_text(TEXT)
    assert wgquick.read(file).path == str(file)


def test_a_config_error_has_a_diagnostic_for_every_fault() -> None:
    with pytest.raises(wgquick.ConfigError) as caught:
        wgquick.parse("[Interface]\nMTU = x\nListenPort = 70000\n[Peer]\nAlowedIPs = 10.0.0.0/8\n")
    faults = caught.value.diagnostics
    assert [fault.line for fault in faults] == sorted(fault.line for fault in faults)
    assert len(faults) >= 3
    assert all(fault.column >= 1 and fault.code and fault.message and fault.remedy for fault in faults)


def use_a_tunnel() -> tuple[bool, bool, list[str]]:
    lines: list[str] = []
    with wgquick.tunnel(wgquick.parse(TEXT, name="ci0"), transcript=lines.append):
        during = "ci0" in links()
    return during, "ci0" in links(), lines


def test_a_tunnel_is_up_in_the_block_and_down_after_it(machine: Namespace) -> None:
    during, after, lines = machine.call(use_a_tunnel)
    assert (during, after) == (True, False)
    assert any("ip link set mtu" in line for line in lines)
    assert not any("\n" in line for line in lines)
    assert {"up-ci0", "down-ci0"} <= set(machine.out("ls", "/run").split())


def fail() -> None:
    raise ZeroDivisionError


def fail_inside() -> tuple[bool, str]:
    try:
        with wgquick.tunnel(wgquick.parse(TEXT, name="ci0")):
            fail()
    except ZeroDivisionError:
        return "ci0" in links(), "raised"
    return True, "lost"


def test_a_tunnel_goes_down_if_the_block_raises(machine: Namespace) -> None:
    assert machine.call(fail_inside) == (False, "raised")


def down_with_a_configuration_of_another_name() -> bool:
    wgquick.up(wgquick.parse(TEXT, name="ci0"))
    wgquick.down("ci0", wgquick.parse(TEXT))
    return "ci0" in links()


def test_down_uses_the_name_it_is_given(machine: Namespace) -> None:
    """The given configuration has another name."""
    assert not machine.call(down_with_a_configuration_of_another_name)
    assert "down-ci0" in machine.out("ls", "/run").split()


def end_with_a_failing_hook(key: str) -> tuple[bool, int, bool]:
    config = wgquick.parse(TEXT.replace("[Peer]", f"{key} = exit 7\n[Peer]"), name="ci0")
    try:
        with wgquick.tunnel(config) as inside:
            pass
    except wgquick.HookError as error:
        return "ci0" in links(), error.status, inside is config
    return True, 0, False


@pytest.mark.parametrize("key", ["PreDown", "PostDown"])
def test_a_failing_hook_at_the_end_raises_and_the_tunnel_is_down(machine: Namespace, key: str) -> None:
    assert machine.call(end_with_a_failing_hook, key) == (False, 7, True)
    assert "down-ci0" in machine.out("ls", "/run").split()
    assert machine.run(["find", "/run/wgq", "-name", "*.journal"], check=False).stdout == ""


def use_tunnels_in_threads() -> tuple[set[str], set[str]]:
    together = Barrier(4, timeout=60)
    seen: list[set[str]] = []

    def use(number: int) -> None:
        text = TEXT.replace("10.0.0.1", f"10.0.{number}.1").replace("10.9.", f"10.{number + 10}.")
        with wgquick.tunnel(wgquick.parse(text, name=f"ci{number}")):
            together.wait()
            seen.append(links())
            together.wait()

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(use, range(4)))
    return set.intersection(*seen), links()


def test_threads_can_have_tunnels_at_the_same_time(machine: Namespace) -> None:
    during, after = machine.call(use_tunnels_in_threads)
    assert {"ci0", "ci1", "ci2", "ci3"} <= during
    assert not {"ci0", "ci1", "ci2", "ci3"} & after


def go_through_the_verbs() -> list[bool]:
    seen = []
    config = wgquick.read("/etc/wireguard/api0.conf")
    wgquick.up(config)
    seen.append("api0" in links())
    wgquick.save("/etc/wireguard/api0.conf")
    wgquick.down("api0", config)
    seen.append("api0" in links())
    return seen


def test_read_up_save_and_down_work_by_file_and_name(machine: Namespace) -> None:
    machine.run(["sh", "-c", "umask 077; cat > /etc/wireguard/api0.conf"], input=TEXT)
    assert machine.call(go_through_the_verbs) == [True, False]
    assert "PostUp = touch /run/up-%i" in machine.out("cat", "/etc/wireguard/api0.conf")


def down_of_nothing() -> str:
    try:
        wgquick.down("none0")
    except wgquick.WgqError as error:
        return error.what
    return ""


def up_damage_down(damage: str) -> list[str]:
    path = Path("/etc/wireguard/api1.conf")
    path.write_text(TEXT)
    path.chmod(0o600)
    wgquick.up(wgquick.read("api1"))
    if damage == "gone":
        path.unlink()
    else:
        path.write_text("Address = x")
    lines: list[str] = []
    wgquick.down("api1", "api1", transcript=lines.append)
    assert Path("/run/down-api1").exists()
    return lines


@pytest.mark.parametrize("damage", ["faulty", "gone"])
def test_down_uses_the_journal_if_the_file_is_unusable(machine: Namespace, damage: str) -> None:
    assert any("journal" in line for line in machine.call(up_damage_down, damage))
    machine.run(["rm", "/run/down-api1"])


def test_down_of_a_missing_interface_raises_an_error(machine: Namespace) -> None:
    assert machine.call(down_of_nothing) == "`none0' is not a WireGuard interface"


def test_up_with_a_name_points_to_read() -> None:
    with pytest.raises(TypeError, match=r"wgquick\.read\(\.\.\.\) returns, not str"):
        wgquick.up("wg0")  # type: ignore[arg-type]


def test_an_unknown_backend_is_refused_before_any_change() -> None:
    with pytest.raises(wgquick.WgqError, match="`bsd' is not a valid value for backend"):
        wgquick.up(wgquick.parse(TEXT), wgquick.Options(backend="bsd"))


def test_importing_the_package_imports_no_slow_library() -> None:
    code = "import sys; before = set(sys.modules); import wgquick; print(*sorted(set(sys.modules) - before))"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert not {"pydantic", "typer", "pyroute2", "iptc", "socket", "dataclasses"} & set(done.stdout.split())


def _imports(machine: Namespace, *arguments: str) -> set[str]:
    """The modules that Python imports during the run."""
    done = machine.run([sys.executable, "-X", "importtime", "-c", *arguments], env=dict(os.environ))
    return {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if line.startswith("import time")}


@pytest.mark.parametrize("verb", ["up", "down"])
def test_up_and_down_keep_the_slow_libraries_out(machine: Namespace, verb: str) -> None:
    """Each of the first five imports takes about as long as `up` of wg-quick; so do all the others together."""
    machine.run(["sh", "-c", "umask 077; cat > /etc/wireguard/api0.conf"], input=TEXT)
    if verb == "down":
        machine.run([sys.executable, "-m", "wgquick", "up", "api0"], env=dict(os.environ))
    imported = _imports(machine, "from wgquick.__main__ import main; main()", verb, "api0")
    slow = {"pydantic", "typer", "click", "pyroute2", "iptc", "dataclasses", "subprocess", "asyncio", "pathlib"}
    slow |= {
        "typing",
        "enum",
        "re",
        "json",
        "contextlib",
        "collections",
        "functools",
        "socket",
        "signal",
        "hashlib",
    }
    assert not (slow - _imports(machine, "0")) & imported
    assert f"wgquick.executor.{verb}" in imported
