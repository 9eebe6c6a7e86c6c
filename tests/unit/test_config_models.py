"""The pydantic models: the same grammar as in files, and no secret in any output."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from wgquick.config.document import Document
from wgquick.config.models import Interface, Peer, WgQuickConfig
from wgquick.config.parser import parse
from wgquick.errors import ConfigError
from wgquick.net import SecretKey

KEY = "yAnz5TF+lXXJte14tji3zlMNq+hd2rYUIgJBgB3fBmk="
PRIVATE = "TrMvSoP4jYQlY6RIzBgbssQqY3vxI2Pi+y71lOWWXX0="
OTHER = "xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg="
TEXT = f"""[Interface]
PrivateKey = {PRIVATE}
ListenPort = 51820
FwMark = 0x10
Address = 10.0.0.1/24
Address = fd00::1/64
DNS = 1.1.1.1, example.com
MTU = 1400
Table = 123
PreUp = a # b
PostUp = c
PreDown = d
PostDown = e
SaveConfig = true

[Peer]
PublicKey = {OTHER}
PresharedKey = {PRIVATE}
AllowedIPs = 10.0.0.0/8, fd00::/64
Endpoint = [2001:db8::1]:51820
PersistentKeepalive = 25

[Peer]
PublicKey = {KEY}
AllowedIPs = +10.0.0.0/8
AllowedIPs = 10.0.0.0/8
"""


@pytest.fixture
def config() -> WgQuickConfig:
    return WgQuickConfig.from_text(TEXT, name="wg0")


def test_a_text_is_parsed_into_fields(config: WgQuickConfig) -> None:
    assert config.interface.listen_port == 51820
    assert [address.text for address in config.interface.address] == ["10.0.0.1/24", "fd00::1/64"]
    assert (config.interface.dns, config.interface.dns_search) == (("1.1.1.1",), ("example.com",))
    assert str(config.peers[0].endpoint) == "[2001:db8::1]:51820"


def test_settings_and_models_are_equivalent(config: WgQuickConfig) -> None:
    settings = parse(Document.parse(TEXT.encode()), "wg0")
    assert config.settings == settings
    assert WgQuickConfig.from_settings(settings) == config


def test_a_written_text_reads_back_the_same(config: WgQuickConfig) -> None:
    assert WgQuickConfig.from_text(config.to_text(), name="wg0") == config


def test_models_accept_python_values_and_texts() -> None:
    made = WgQuickConfig(
        name="wg0",
        interface=Interface(
            private_key=SecretKey.parse(PRIVATE),
            listen_port="51820",
            fwmark=16,
            address="10.0.0.1/24, fd00::1/64",
            dns="1.1.1.1",
            dns_search=["example.com"],
            mtu="0x578",
            table=123,
            pre_up="a # b",
            post_up=(word for word in "c"),
            pre_down=("d",),
            post_down="e",
            save_config=True,
        ),
        peers=[
            Peer(
                public_key=OTHER,
                preshared_key=PRIVATE,
                allowed_ips=["10.0.0.0/8", "fd00::1/64"],
                endpoint="[2001:db8::1]:51820",
                persistent_keepalive="25",
            ),
        ],
    )
    read = WgQuickConfig.from_text(TEXT, name="wg0")
    assert made.interface == read.interface
    assert made.peers == read.peers[:1]


def test_a_configuration_made_in_python_survives_its_text() -> None:
    peers = [Peer(public_key=KEY, allowed_ips=entries) for entries in ("", "10.0.0.0/8", "+10.0.0.0/8, -fd00::/64")]
    made = WgQuickConfig(name="wg0", interface=Interface(address="10.0.0.1/24"), peers=peers)
    assert WgQuickConfig.from_text(made.to_text()) == made


def test_incremental_entries_keep_the_others_by_default() -> None:
    peer = Peer.model_validate({"public_key": KEY, "allowed_ips": "+10.0.0.0/8"})
    assert not peer.settings.replace_allowed_ips
    assert peer.model_copy(update={"replace_allowed_ips": True}).settings.replace_allowed_ips


def test_a_dump_validates_to_the_same(config: WgQuickConfig) -> None:
    assert WgQuickConfig.model_validate(config.model_dump()) == config


def test_no_dump_or_repr_shows_a_secret(config: WgQuickConfig) -> None:
    public = repr(config) + str(config) + repr(config.model_dump()) + config.model_dump_json()
    assert PRIVATE not in public
    assert repr(SecretKey.parse(PRIVATE).raw) not in public
    assert '"private_key":"(hidden)"' in config.model_dump_json()
    assert '"preshared_key":"(hidden)"' in config.model_dump_json()


def test_models_are_frozen(config: WgQuickConfig) -> None:
    with pytest.raises(ValidationError, match="frozen"):
        config.interface.mtu = 1


SECRET = "kEyMaTeRiAl/abcdefghijklmnopqrstuvwxyz+0123"
REFUSED: list[tuple[type[Interface] | type[Peer], dict[str, Any]]] = [
    (Interface, {"private_key": SECRET}),
    (Interface, {"address": [SECRET]}),
    (Interface, {"address": "10.0.0.1, 10.0.0.1/32"}),
    (Interface, {"listen_port": SECRET}),
    (Interface, {"listen_port": 65536}),
    (Interface, {"listen_port": True}),
    (Interface, {"fwmark": -1}),
    (Interface, {"mtu": SECRET}),
    (Interface, {"dns": SECRET}),
    (Interface, {"dns_search": ["1.1.1.1"]}),
    (Interface, {"table": "a b"}),
    (Interface, {"pre_up": f"a\n{SECRET}"}),
    (Interface, {"save_config": SECRET}),
    (Interface, {SECRET: 1}),
    (Peer, {"public_key": SECRET}),
    (Peer, {"public_key": KEY, "preshared_key": f"{{{SECRET}}}"}),
    (Peer, {"public_key": KEY, "preshared_key": SECRET.encode()}),
    (Peer, {"public_key": KEY, "allowed_ips": "10.0.0.0/8,"}),
    (Peer, {"public_key": KEY, "endpoint": SECRET}),
    (Peer, {"public_key": KEY, "persistent_keepalive": 65536}),
    (Peer, {}),
]


@pytest.mark.parametrize(("model", "values"), REFUSED)
def test_invalid_values_are_refused_and_not_shown(model: type[Interface] | type[Peer], values: Any) -> None:
    with pytest.raises(ValidationError) as caught:
        model.model_validate(values)
    if SECRET not in values:  # the name of an unknown field is part of the error's place
        assert SECRET not in str(caught.value) + repr(caught.value.errors()) + caught.value.json()


def test_all_errors_are_reported_at_once_with_their_places() -> None:
    with pytest.raises(ValidationError) as caught:
        WgQuickConfig.model_validate({"name": "a/b", "interface": {"mtu": "x"}, "peers": [{"public_key": "y"}]})
    assert [error["loc"] for error in caught.value.errors()] == [
        ("name",),
        ("interface", "mtu"),
        ("peers", 0, "public_key"),
    ]


def test_faults_in_a_text_are_config_errors() -> None:
    with pytest.raises(ConfigError, match="unknown-line"):
        WgQuickConfig.from_text("x")


def test_a_lone_surrogate_is_reported_without_showing_a_key() -> None:
    with pytest.raises(ConfigError) as caught:
        WgQuickConfig.from_text(f"{TEXT}# \ud800\n", name="wg0")
    (fault,) = caught.value.diagnostics
    assert (fault.line, fault.column, fault.code) == (TEXT.count("\n") + 1, 3, "encoding")
    assert caught.value.__context__ is None


def test_there_is_a_json_schema() -> None:
    assert WgQuickConfig.model_json_schema()["properties"]["peers"]["type"] == "array"
