"""Faults are reported once, by their cause: odd characters, hooks over several lines, values as written."""

from __future__ import annotations

import pytest

from wgquick.config.document import Document
from wgquick.config.keys import KEYS
from wgquick.config.parser import examine

KEY = "YAnz5TF+lXXJte14tji3zlMNq+hd2rYUIgJBgB3fBmk="
PUBLIC = "xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg="
ZWSP, NBSP, BOM, SHY, RLM = "\u200b", "\u00a0", "\ufeff", "\u00ad", "\u200f"
PEER = f"[Peer]\nPublicKey = {PUBLIC}\n"


def reported(text: str | bytes) -> list[str]:
    """Each fault as `line:column message`."""
    data = text.encode("utf-8", "surrogateescape") if isinstance(text, str) else text
    return [f"{fault.line}:{fault.column} {fault.message}" for fault in examine(Document.parse(data), "wg0").faults]


def remedies(text: str) -> list[str]:
    return [fault.remedy for fault in examine(Document.parse(text.encode()), "wg0").faults]


ODD = [
    (f"[Interface]\nPrivateKey{NBSP}= {KEY}\n", "2:11 U+00A0 NO-BREAK SPACE"),
    (f"[Interface]\nPrivateKey ={NBSP}{KEY}\n", "2:13 U+00A0 NO-BREAK SPACE"),
    (f"[Interface]\nPrivateKey = {KEY[:20]}{ZWSP}{KEY[20:]}\n", "2:34 U+200B ZERO WIDTH SPACE"),
    (f"[Interface]\nPrivateKey \uff1d {KEY}\n", "2:12 U+FF1D FULLWIDTH EQUALS SIGN"),
    (f"{ZWSP}[Interface]\nPrivateKey = {KEY}\nAddress = 10.0.0.1/24\n", "1:1 U+200B ZERO WIDTH SPACE"),
    (f"[Interface{SHY}]\nPrivateKey = {KEY}\nAddress = 10.0.0.1/24\n", "1:11 U+00AD SOFT HYPHEN"),
    (f"{BOM}{BOM}[Interface]\nPrivateKey = {KEY}\n", "1:1 U+FEFF ZERO WIDTH NO-BREAK SPACE"),
    (f"[Interface]\nAddress = 10.0.0.1{ZWSP}/24\n", "2:19 U+200B ZERO WIDTH SPACE"),
    (f"[Interface]\nAddress = 10.0.0.1/24, 10.0.1.1/24{RLM}\n", "2:35 U+200F RIGHT-TO-LEFT MARK"),
    (f"[Interface]\nMTU = 1420{NBSP}\n", "2:11 U+00A0 NO-BREAK SPACE"),
    ("[Interface]\nMTU = \uff11\uff14\uff12\uff10\n", "2:7 U+FF11 FULLWIDTH DIGIT ONE"),
    ("[Interface]\nListenPort = 5182\u0660\n", "2:18 U+0660 ARABIC-INDIC DIGIT ZERO"),
    (f"[Interface]\nSaveConfig = true{ZWSP}\n", "2:18 U+200B ZERO WIDTH SPACE"),
    (f"[Interface]\nFwMark = 0x1{ZWSP}\n", "2:13 U+200B ZERO WIDTH SPACE"),
    ("[Interface]\n\u0410ddress = 10.0.0.1/24\nMTU = 1420\n", "2:1 U+0410 CYRILLIC CAPITAL LETTER A"),
    (f"{ZWSP}[Peer]\nPublicKey = {PUBLIC}\n", "1:1 U+200B ZERO WIDTH SPACE"),
    (f"[Peer]\nPublicKey{NBSP}= {PUBLIC}\n", "2:10 U+00A0 NO-BREAK SPACE"),
    (f"[Peer]\nPublicKey = \u201c{PUBLIC}\u201d\n", "2:13 U+201C LEFT DOUBLE QUOTATION MARK"),
    (f"{PEER}AllowedIPs = 10.0.0.0/8,{NBSP}10.1.0.0/16\n", "3:25 U+00A0 NO-BREAK SPACE"),
    (f"{PEER}AllowedIPs = 10.0.0.0\u2044{'8'}\n", "3:22 U+2044 FRACTION SLASH"),
    (f"{PEER}Endpoint = vpn.example{ZWSP}:51820\n", "3:23 U+200B ZERO WIDTH SPACE"),
    (f"{PEER}Endpoint = vpn\u2010a.example:51820\n", "3:15 U+2010 HYPHEN"),
    (f"{PEER}Endpoint = 192.0.2.1:51820{NBSP}\n", "3:27 U+00A0 NO-BREAK SPACE"),
    (f"{PEER}PersistentKeepalive = 25{NBSP}\n", "3:25 U+00A0 NO-BREAK SPACE"),
    ("[Interface]\n\uff03 a comment\n", "2:1 U+FF03 FULLWIDTH NUMBER SIGN"),
    ("[Interface]\nMTU = 1420\udca0\n", "2:11 the byte 0xA0 (in Windows-1252 U+00A0 NO-BREAK SPACE)"),
]


@pytest.mark.parametrize(("text", "expected"), ODD, ids=[expected for _, expected in ODD])
def test_an_odd_character_is_reported_once_at_its_column(text: str, expected: str) -> None:
    (found,) = reported(text)
    assert found.startswith(expected)
    assert KEY not in found


@pytest.mark.parametrize(
    "text",
    [
        f"# caf\u00e9 {ZWSP}{NBSP}\n[Interface] # \u2013\nMTU = 1420 #{NBSP}\n",
        "[Interface]\nPostUp = echo \u201cd\u00e9j\u00e0\u201d \u2013 vu\n",
        f"{PEER}Endpoint = caf\u00e9.example:51820\n",
    ],
)
def test_comments_hooks_and_names_may_have_any_script(text: str) -> None:
    assert reported(text) == []


def test_a_fault_with_another_cause_is_reported_separately() -> None:
    first, second = reported(f"{PEER}AllowedIPs = 10.0.0.0/33, 10.1.0.0/16{NBSP}\n")
    assert "`10.0.0.0/33' has no valid prefix length" in first
    assert second.startswith("3:38 U+00A0")


CONTINUED = [
    ("iptables -A FORWARD -i %i -j ACCEPT;\n  iptables -t nat -A POSTROUTING -o eth0 -j MASQUERADE", 3),
    ("iptables -A FORWARD \\\n  -i %i -j ACCEPT", 3),
    ("sysctl -q \\\n  net.ipv4.ip_forward=1", 3),
    ("sysctl -q net.ipv4.ip_forward=1 &&\n\n# why\nVALUE=1", 5),
    ("nft 'table inet x {\n chain y {\n  type filter hook forward priority 0;\n }\n}'", 3),
    ("bash -c '\n[ -e /x ] && y\n'", 3),
    ("if true; then\n  echo x=1\nfi", 3),
]


@pytest.mark.parametrize(("hook", "line"), CONTINUED)
def test_a_hook_over_several_lines_is_one_fault(hook: str, line: int) -> None:
    text = f"[Interface]\nPostUp = {hook}\nPostDown = true\n{PEER}"
    (found,) = reported(text)
    assert found.startswith(f"{line}:")
    assert "the PostUp hook of line 2" in found
    assert remedies(text) == ["a hook has to be on one line: join them"]


@pytest.mark.parametrize(
    ("section", "key", "words"),
    [
        ("[Interface]\n", "DNS", ("9.9.9.9", "1.1.1.1")),
        ("[Interface]\n", "Address", ("10.0.0.1/24", "fd00::1/64")),
        (PEER, "AllowedIPs", ("10.0.0.0/24", "10.1.0.0/24", "10.2.0.0/24")),
    ],
)
def test_a_list_over_several_lines_is_one_fault(section: str, key: str, words: tuple[str, ...]) -> None:
    text = section + f"{key} = " + ",\n  ".join(words) + "\n"
    (found,) = reported(text)
    line = section.count("\n") + 1
    assert found.startswith(f"{line + 1}:3 ")
    assert f"the {key} value of line {line}" in found
    assert remedies(text) == ["a value has to be on one line: join them"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("Adress = 10.0.0.1", "unknown key `Adress'"),
        ("[Pear]", "[Pear] is neither [Interface] nor [Peer]"),
        ("Colour = red", "unknown key `Colour'"),
    ],
)
def test_a_fault_after_a_complete_hook_is_reported_as_itself(line: str, message: str) -> None:
    assert message in reported(f"[Interface]\nPostUp = true\n{line}\n")[0]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("Endpoint = 198.51.100.1 51820", "Endpoint `198.51.100.1 51820' has no port"),
        ("Endpoint = vpn example : x y", "Endpoint `vpn example : x y' has a port"),
        ("AllowedIPs = 10.0.0.0 10.1.0.0", "AllowedIPs entry `10.0.0.0 10.1.0.0' is"),
        ("PersistentKeepalive = 2 5 s", "PersistentKeepalive `2 5 s' is"),
        ("Allow edIP = 1", "unknown key `Allow edIP'"),
    ],
)
def test_a_value_is_reported_as_written(line: str, message: str) -> None:
    assert message in reported(PEER + line)[0]


def test_a_blank_before_the_port_has_its_own_remedy() -> None:
    assert remedies(f"{PEER}Endpoint = 198.51.100.1 51820\n") == ["put a colon, not a blank, between host and port"]


@pytest.mark.parametrize("cut", [24, 30, 36, 40, 43])
def test_a_key_split_over_two_lines_is_not_shown(cut: int) -> None:
    found = "\n".join(reported(f"[Interface]\nPrivateKey = {KEY[:cut]}\n{KEY[cut:]}\n"))
    assert KEY[:8] not in found
    assert len(KEY[cut:]) < 3 or KEY[cut:].rstrip("=") not in found


def warnings(value: str) -> list[tuple[int, int, str]]:
    report = examine(Document.parse(f"[Interface]\nDNS = {value}\n".encode()), "wg0")
    assert report.settings is not None
    return [warning[:3] for warning in report.warnings]


@pytest.mark.parametrize(
    "value",
    [
        "https://dns.example/dns-query",
        "tls://192.0.2.53",
        "192.0.2.53:5353",
        "[2001:db8::53]",
        "[2001:db8::53]:53",
        "2001:db8::53/128",
        "dns.example:853",
        "999.0.2.53",
        "192.0.2",
        "192.0.2.53.",
        ".",
        "2001:db8::g",
        "192.0.2.53;2001:db8::53",
    ],
)
def test_a_dns_server_that_is_no_address_gives_a_warning(value: str) -> None:
    assert warnings(f"192.0.2.1, {value}") == [(2, 18, "dns-server")]


@pytest.mark.parametrize(
    "value",
    [
        "192.0.2.53/32",
        '"192.0.2.53"',
        "'192.0.2.53'",
        "192.0.2.53;",
        "192.0.2.53;192.0.2.54",
        "192.0.2.53@853",
        "192.0.2.53%eth0",
        "\u201c192.0.2.53\u201d",
        "192.0.2.53\u200b",
        "\uff11\uff19\uff12\uff0e0.2.53",
        "a..b",
    ],
)
def test_a_dns_word_that_is_no_domain_gives_a_warning(value: str) -> None:
    ((line, _, code),) = warnings(f"192.0.2.1, {value}")
    assert (line, code) == (2, "dns-search")


def test_an_odd_character_in_dns_is_reported_at_its_column() -> None:
    report = examine(Document.parse("[Interface]\nDNS = 192.0.2.1, 192.0.2.53\u00a0\n".encode()), "wg0")
    (warning,) = report.warnings
    assert warning[1] == 28
    assert warning.message.startswith("U+00A0 NO-BREAK SPACE")


@pytest.mark.parametrize(
    "value",
    [
        "192.0.2.53",
        "2001:db8::53",
        "fe80::1%wg0",
        "::ffff:192.0.2.53",
        "example.net",
        "corp",
        "a_b.example.",
        "~corp",
        "~.",
        "b\u00fccher.example",
    ],
)
def test_addresses_and_domains_give_no_warning(value: str) -> None:
    assert warnings(value) == []


def test_a_header_before_a_no_break_space_is_the_only_fault() -> None:
    text = f"[Interface]\nPrivateKey = {KEY}\n{PEER.replace(']', f']{NBSP}')}AllowedIPs = 10.0.0.0/8\n"
    (found,) = reported(text)
    assert found.startswith("3:7 U+00A0 NO-BREAK SPACE")


def test_a_here_document_belongs_to_its_hook() -> None:
    text = "[Interface]\nPostUp = nft -f - <<EOF\ntable inet a {\n}\nEOF\n"
    assert remedies(text) == ["a hook has to be on one line: join them"]
    assert remedies("[Interface]\nPostUp = cat <<<a\ntable inet\n") == ["did you mean Table?"]


@pytest.mark.parametrize(
    ("line", "remedy"),
    [
        (f"PrivateKey = \u201c{KEY}\u201d", "delete the quotation marks: values have none"),
        (f"PrivateKey \u2013 {KEY}", "replace it with ="),
    ],
)
def test_the_remedy_for_an_odd_character_leads_to_a_valid_line(line: str, remedy: str) -> None:
    assert remedies(f"[Interface]\n{line}\n") == [remedy]


@pytest.mark.parametrize("section", ["[Interface]", "[Peer]"])
def test_a_key_in_any_place_is_in_no_field_of_a_fault(section: str) -> None:
    values = ("{}", "'{}'", "{}:51820", "[{}]:1", "{}/24", "10.0.0.1, {}", "x{}", "{}x", "1.2.3.4/{}", "vpn:{}")
    forms = [KEY[:20], KEY[:-1], " ".join(KEY), *(value.format(KEY) for value in values)]
    for name in (*KEYS, "Other"):
        for form in forms:
            for line in (f"{name} = {form}", f"{form} = {name}", f"{name} {form}"):
                report = examine(Document.parse(f"{section}\n{line}\n".encode()), "wg0")
                assert KEY[2:16] not in repr((report.faults, report.warnings)).replace(" ", ""), line
