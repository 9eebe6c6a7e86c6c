"""The lossless document, its lines, and `strip`."""

from __future__ import annotations

import pytest

from wgquick.config.document import Document, columns
from wgquick.config.strip import strip
from wgquick.errors import ConfigError

FILE = b"\xef\xbb\xbf[Interface]\r\n  Address = 10.0.0.1/24 # home\r\n[Peer]\n\tPublic Key=x\xff\nPostUp = y"


@pytest.mark.parametrize("data", [b"", b"\n", FILE, b"\0\xff\xfe", b"a\r\rb", FILE[3:] + b"\n\n"])
def test_a_document_keeps_every_byte(data: bytes) -> None:
    document = Document.parse(data)
    assert bytes(document) == data
    texts = "".join(line.text for line in document.lines())
    assert texts.encode("utf-8", "surrogateescape") == data.removeprefix(b"\xef\xbb\xbf")


def test_lines_have_section_key_and_value() -> None:
    lines = Document.parse(FILE).lines()
    assert [(line.header, line.section, line.key, line.quick) for line in lines] == [
        ("Interface", "Interface", "", True),
        ("", "Interface", "Address", True),
        ("Peer", "Peer", "", False),
        ("", "Peer", "PublicKey", False),
        ("", "Peer", "PostUp", False),
    ]
    assert [line.value_text for line in lines] == ["", "10.0.0.1/24", "", "x\udcff", "y"]


def test_a_header_with_inner_blanks_counts_for_wg_only() -> None:
    header, address = Document.parse(b"[ Interface ]\nAddress = 10.1\n").lines()
    assert (header.header, header.quick) == ("Interface", False)
    assert (address.section, address.quick) == ("Interface", False)


def test_columns_refer_to_the_text_before_wg_removes_blanks() -> None:
    assert columns(" ab\t cd\0e \r") == [2, 3, 6, 7, 9, 10]


def test_columns_count_characters_where_wg_counts_bytes() -> None:
    assert columns("a\u00e9b\udcff") == [1, 2, 2, 3, 4, 5]


def test_repr_of_a_document_hides_its_content() -> None:
    assert repr(Document.parse(b"PrivateKey = x", "/wg0.conf")) == "Document(path='/wg0.conf', 14 bytes)"


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", b"\n"),
        (b"\n", b"\n\n"),
        (b"[Interface]\nAddress = 1\nPrivateKey = x # y\n", b"[Interface]\nPrivateKey = x # y\n\n"),
        (b"  [Interface]\t\r\n\tMTU = 1\r\nListenPort = 1\r\n", b"[Interface]\t\r\nListenPort = 1\r\n\n"),
        (b"[Peer]\nAddress = 1\n  ", b"[Peer]\nAddress = 1\n\n"),
        (b"[Interface]\nPostUp = #\na\0b\\c \\", b"[Interface]\nab\\c \\\n\n"),
        (b"[ Interface ]\nDNS = 1", b"[ Interface ]\nDNS = 1\n\n"),
        (b"\xef\xbb\xbf[Interface]\nDNS = 1", b"[Interface]\n\n"),
        (b"[Interface]\nnonsense\n", b"[Interface]\nnonsense\n\n"),
    ],
)
def test_strip_keeps_the_lines_that_wg_quick_passes_to_wg(data: bytes, expected: bytes) -> None:
    assert strip(Document.parse(data)) == expected


def test_strip_fails_where_wg_quick_does() -> None:
    with pytest.raises(ConfigError, match="neither true nor false"):
        strip(Document.parse(b"[Interface]\nSaveConfig = perhaps\n", "wg0.conf"))
