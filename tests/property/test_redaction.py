"""Doctor's bundle keeps no key, address or name; each is replaced by one word throughout."""

from __future__ import annotations

import base64
import ipaddress

from hypothesis import given
from hypothesis import strategies as st

from wgquick.diagnosis.doctor.redaction import Redaction, hosts_in

RAW = st.binary(min_size=32, max_size=32)
KEYS = (
    RAW.map(lambda raw: base64.b64encode(raw).decode())
    | RAW.map(bytes.hex)
    | RAW.map(lambda raw: raw.hex().upper())
)
V4 = st.ip_addresses(v=4).filter(lambda address: not (address.is_loopback or address.is_unspecified)).map(str)
PLAIN_V6 = st.ip_addresses(v=6).filter(lambda address: not (address.is_loopback or address.is_unspecified))
V6 = PLAIN_V6.map(str) | PLAIN_V6.map(lambda address: address.exploded) | PLAIN_V6.map(lambda a: str(a).upper())
LABEL = st.from_regex(r"[a-z][a-z0-9]{2,8}", fullmatch=True)
NAMES = st.lists(LABEL, min_size=2, max_size=4).map(".".join)
SENSITIVE = KEYS | V4 | V6 | NAMES
# Text around the values: what reports contain, and characters that cannot be part of an address or name.
AROUND = st.text(alphabet=" \n\t,;=/[]()'\"%<>{}|!?*&~^$@#_xyzXYZghi", max_size=8)


def is_name(text: str) -> bool:
    return not text.replace(".", "").isdecimal() and ":" not in text and "." in text and "=" not in text


@given(st.lists(st.tuples(AROUND, SENSITIVE, AROUND), min_size=1, max_size=8))
def test_no_key_address_or_name_is_kept(parts: list[tuple[str, str, str]]) -> None:
    text = " ".join("".join(part) for part in parts)
    redacted = Redaction(secret for _, secret, _ in parts if is_name(secret)).text(text).lower()
    for _, secret, _ in parts:
        assert secret.lower() not in redacted


@given(V4 | V6 | KEYS, AROUND)
def test_a_value_has_the_same_replacement_in_all_texts(value: str, around: str) -> None:
    redaction = Redaction()
    first, second = redaction.text(f"a {value} "), redaction.text(f"{value} b")
    assert first.split()[1] == second.split()[0]
    assert redaction.text(f"a {around} {value} ").split()[-1] == first.split()[1]


@given(PLAIN_V6)
def test_all_notations_of_an_address_have_one_replacement(address: ipaddress.IPv6Address) -> None:
    redaction = Redaction()
    assert redaction.text(str(address)) == redaction.text(address.exploded.upper())


@given(RAW)
def test_all_notations_of_a_key_have_one_replacement(raw: bytes) -> None:
    redaction = Redaction()
    assert redaction.text(base64.b64encode(raw).decode()) == redaction.text(raw.hex())


COMMENTS = st.from_regex(r"[A-Za-z0-9]{6,12}", fullmatch=True).filter(lambda told: told not in "comment")
RULES = ('{"comment": "%s"}', '-m comment --comment "%s" -j DROP', "-m comment --comment %s -j DROP")


@given(COMMENTS, st.sampled_from(RULES))
def test_no_comment_of_a_firewall_rule_survives(told: str, around: str) -> None:
    """Such comments may contain people's names."""
    assert told not in Redaction().text(around % told)


@given(V4 | PLAIN_V6.map(str), st.booleans())
def test_no_address_survives_as_bytes(told: str, is_inside: bool) -> None:
    """The tuples of a journal show addresses as bytes."""
    packed = ipaddress.ip_address(told).packed
    text = repr((packed,)) if is_inside else repr(packed)
    assert repr(packed) not in Redaction().text(f"Undo(address={text}, name='wg0')")


@given(NAMES.map(lambda name: f"{name}.example"), LABEL)
def test_no_host_or_url_of_a_hook_survives(name: str, user: str) -> None:
    hook = f"ping -c 1 {name}; curl https://{user}:{user}@{name}/up; sysctl net.ipv4.ip_forward=1; sh /etc/up.sh"
    redacted = Redaction(hosts_in(hook)).text(hook)
    assert name not in redacted.replace("net.ipv4.ip_forward", "")
    assert f"//{user}" not in redacted
    assert "sysctl net.ipv4.ip_forward=1; sh /etc/up.sh" in redacted


def test_times_and_versions_are_kept() -> None:
    text = "12:34:56 wgq 0.1.0, Linux 6.1.0 127.0.0.1 ::1 mtu 1420 table 51820"
    assert Redaction().text(text) == text
