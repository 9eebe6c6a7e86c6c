"""No plan has a secret, and a plan of a device says what reload sends to it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hypothesis import given
from hypothesis import strategies as st

from tests.property.peers import PEERS, SECRETS
from wgquick import api
from wgquick.config.document import Document
from wgquick.config.parser import examine
from wgquick.device import Device, DeviceConfig
from wgquick.diagnosis.keys import public_key_of
from wgquick.executor import planning
from wgquick.executor.planned_host import changed
from wgquick.executor.reloading import Comparison
from wgquick.net import SocketAddress
from wgquick.plan import reload, up
from wgquick.plan.current import Current
from wgquick.plan.desired import Desired
from wgquick.plan.difference import Difference
from wgquick.plan.facts import EndpointFacts
from wgquick.plan.file_lines import FileLines
from wgquick.plan.file_peers import file_peers
from wgquick.plan.planned import Plan
from wgquick.plan.steps import ChangeDevice, SetDevice
from wgquick.show import plan as show

if TYPE_CHECKING:
    from wgquick.config.settings import Settings

NETWORKS = ["0.0.0.0/0", "::/0", "10.1.0.0/16", "10.2.0.0/16", "10.2.3.4/32", "fd00::/64", "fd01::/64"]
SECRET = st.sampled_from(SECRETS)
INTERFACE = st.one_of(
    st.sampled_from(
        ["MTU = 1400", "FwMark = 7", "Table = 77", "Table = off", "DNS = 10.0.0.53", "ListenPort = 51999"]
    ),
    st.sampled_from(
        ["Address = 10.0.0.1/24", "Address = fd00::1/64", "# wgq: kill-switch = on", "SaveConfig = true"]
    ),
    st.builds("{} = echo {}".format, st.sampled_from(["PreUp", "PostUp", "PreDown", "PostDown"]), SECRET),
    st.builds("PostUp = wg set %i private-key <(echo {})".format, SECRET),
)
PEER = st.one_of(
    st.builds("PresharedKey = {}".format, SECRET),
    st.builds("AllowedIPs = {}".format, st.lists(st.sampled_from(NETWORKS), min_size=1, max_size=4).map(", ".join)),
    st.sampled_from(["Endpoint = 192.0.2.9:51820", "PersistentKeepalive = 25"]),
)


@st.composite
def configurations(draw: st.DrawFn) -> str:
    lines = ["[Interface]", f"PrivateKey = {draw(SECRET)}", *draw(st.lists(INTERFACE, unique=True, max_size=6))]
    for key in draw(st.lists(st.sampled_from(PEERS), unique=True, max_size=4)):
        lines += ["[Peer]", f"PublicKey = {key}", *draw(st.lists(PEER, max_size=4))]
    return "\n".join(lines) + "\n"


def settings_of(text: str) -> tuple[Settings, Document]:
    document = Document.parse(text.encode())
    found = examine(document, "wg0").settings
    assert found is not None
    return found, document


def shown(plan: Plan) -> str:
    return show.text(plan) + show.json_text(plan) + repr(plan)


@given(configurations())
def test_no_plan_of_up_or_down_has_a_secret(text: str) -> None:
    settings, _ = settings_of(text)
    for verb in ("up", "down"):
        plan = api.plan(verb, settings, offline=True)
        assert plan.changes
        for secret in SECRETS:
            assert secret not in shown(plan)


@given(configurations(), configurations())
def test_no_plan_of_a_reload_has_a_secret(before: str, after: str) -> None:
    old, _ = settings_of(before)
    new, document = settings_of(after)
    address = SocketAddress("192.0.2.9", 51820)
    facts = EndpointFacts({peer.endpoint: address for peer in (*old.peers, *new.peers) if peer.endpoint})
    (step,) = up.set_config(old, facts)
    assert isinstance(step, SetDevice)
    device = changed(Device("wg0"), step.config, public_key_of)
    change = reload.change(new, new.fwmark, device, file_peers(old, lambda _: ""), facts.resolved)
    comparison = Comparison(Current("wg0", device=device), Desired(new, {}), Difference(), (), change)
    file_lines = FileLines("wg0.conf", document)
    planned = [
        each
        for config in (change.first, change.last)
        if config != DeviceConfig()
        for each in planning.of_device(ChangeDevice("wg0", config, ()), comparison, file_lines)
    ]
    told = [*reload.lines("wg0", change.first), *reload.removal_lines("wg0", change)]
    assert [f"[#] {line}" for each in planned for line in each.text] == told
    for secret in SECRETS:
        assert secret not in shown(Plan("reload", "wg0", tuple(planned)))
