"""Settings, models, devices, the written text and the documentation agree with the table of configuration keys."""

from __future__ import annotations

from pathlib import Path

import pytest

from wgquick.config import keys
from wgquick.config.document import Document
from wgquick.config.keys import KEYS
from wgquick.config.models import Interface, Peer, WgQuickConfig
from wgquick.config.parser import examine, parse
from wgquick.config.reference import page
from wgquick.config.settings import Extras, PeerSettings, Settings
from wgquick.config.text import settings_text
from wgquick.device import Device, DeviceConfig, DevicePeer, PeerConfig

PROJECT = Path(__file__).parents[2]
PRIVATE = "yAnz5TF+lXXJte14tji3zlMNq+hd2rYUIgJBgB3fBmk="
PUBLIC = "xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg="
VALUES = {
    "PrivateKey": PRIVATE,
    "ListenPort": "51820",
    "FwMark": "0xca6c",
    "Address": "10.0.0.1/24",
    "DNS": "10.0.0.53, example.com",
    "MTU": "1400",
    "Table": "off",
    "PreUp": "echo one; echo two",
    "PostUp": "echo %i",
    "PreDown": "true # comment",
    "PostDown": "false",
    "SaveConfig": "true",
    "PublicKey": PUBLIC,
    "PresharedKey": PRIVATE,
    "AllowedIPs": "10.0.0.2/32, fd00::/64",
    "Endpoint": "[2001:db8::1]:51820",
    "PersistentKeepalive": "25",
}
"""A value for each key, in the form in which settings are written."""


def text_with(name: str) -> str:
    """A file with this key, and with a peer's PublicKey."""
    sections: dict[str, list[str]] = {"Interface": [], "Peer": [f"PublicKey = {PUBLIC}"]}
    if name != "PublicKey":
        sections[KEYS[name].section].append(f"{name} = {VALUES[name]}")
    return "\n\n".join("\n".join([f"[{section}]", *lines]) for section, lines in sections.items()) + "\n"


def faults(text: str) -> list[str]:
    """The messages and remedies of a file's faults."""
    return [f"{each.message}: {each.remedy}" for each in examine(Document.parse(text.encode()), "wg0").faults]


def fields_of(section: str) -> list[str]:
    return [field for key in keys.of(section) for field in key.fields]


def test_settings_have_the_fields_of_the_table() -> None:
    assert sorted(Settings._fields) == sorted(
        ["name", "path", "peers", "extras", "option_extras", *fields_of("Interface")]
    )
    assert sorted(PeerSettings._fields) == sorted(fields_of("Peer"))


def test_models_have_the_fields_of_the_table() -> None:
    """The models give the fields types for type checkers, and call Address `address`."""
    fields = ["address" if f == "addresses" else f for f in fields_of("Interface")]
    assert list(Interface.model_fields) == [*fields, *Extras._fields]
    assert list(Peer.model_fields) == fields_of("Peer")


def test_a_device_has_a_field_for_each_key_of_wg() -> None:
    interface = {key.field for key in keys.of("Interface", of_wg=True)}
    assert interface <= set(Device._fields)
    assert interface <= set(DeviceConfig._fields)
    assert set(fields_of("Peer")) <= set(PeerConfig._fields)
    assert {key.field for key in keys.of("Peer")} <= set(DevicePeer._fields)


@pytest.mark.parametrize("name", KEYS)
def test_a_value_survives_parsing_and_writing(name: str) -> None:
    text = text_with(name)
    settings = parse(Document.parse(text.encode()), "wg0")
    given = settings if KEYS[name].section == "Interface" else settings.peers[0]
    assert all(getattr(given, field) for field in KEYS[name].fields)
    assert settings_text(settings) == text


@pytest.mark.parametrize("name", [name for name in KEYS if name != "DNS"])
def test_model_and_parser_read_a_value_alike(name: str) -> None:
    key = KEYS[name]
    value: object = VALUES[name] if name != "SaveConfig" else True
    given = {"address" if key.field == "addresses" else key.field: value}
    if key.section == "Interface":
        config = WgQuickConfig(
            name="wg0", interface=Interface.model_validate(given), peers=[Peer(public_key=PUBLIC)]
        )
    else:
        config = WgQuickConfig(name="wg0", peers=[Peer.model_validate({"public_key": PUBLIC, **given})])
    assert config.settings == parse(Document.parse(text_with(name).encode()), "wg0")


@pytest.mark.parametrize("name", KEYS)
def test_a_key_in_the_wrong_section_names_the_right_one(name: str) -> None:
    key = KEYS[name]
    other = {"Interface": "Peer", "Peer": "Interface"}[key.section]
    found = faults(f"[{other}]\n{name} = {VALUES[name]}\n")
    assert any(name in fault and f"[{key.section}]" in fault for fault in found)


def test_the_table_marks_both_secret_keys() -> None:
    assert {key.name for key in KEYS.values() if key.secret} == {"PrivateKey", "PresharedKey"}


def test_the_documentation_of_the_keys_is_up_to_date() -> None:
    """If this fails, run: python -m wgquick.config.reference >docs/configuration.md"""
    assert (PROJECT / "docs/configuration.md").read_text() == page()
