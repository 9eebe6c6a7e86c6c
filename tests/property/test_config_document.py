"""For any bytes: a document loses none, nothing crashes, and settings survive writing and reading."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.property.configurations import ODD_LINES, SPICE, files, mutants
from wgquick.config.document import Document
from wgquick.config.parser import examine
from wgquick.config.strip import strip
from wgquick.config.text import settings_text
from wgquick.errors import ConfigError

NAME = "wg0"
bounded = settings(max_examples=200, deadline=None)
pieces = st.lists(st.sampled_from([*SPICE, *(line.encode() for line in ODD_LINES), b"\n", b"\n"]), max_size=20)
anything = st.binary(max_size=200) | pieces.map(b"".join) | mutants() | files()


@bounded
@given(data=anything)
def test_a_document_keeps_every_byte(data: bytes) -> None:
    document = Document.parse(data)
    text = "".join(line.text for line in document.lines())
    assert bytes(document) == data
    assert text.encode("utf-8", "surrogateescape") == data.removeprefix(b"\xef\xbb\xbf")


@bounded
@given(data=anything)
def test_a_file_has_settings_or_faults_within_its_lines(data: bytes) -> None:
    document = Document.parse(data)
    report = examine(document, NAME)
    assert (report.settings is None) == bool(report.faults)
    for fault in report.faults:
        assert 1 <= fault.line <= len(document.raw)
        assert 1 <= fault.column <= len(document.line_text(fault.line - 1)) + 1


@bounded
@given(data=anything)
def test_a_stripped_file_means_the_same_to_wg(data: bytes) -> None:
    document = Document.parse(data)
    found = examine(document, NAME).settings
    if found is None:
        return
    again = examine(Document.parse(strip(document)), NAME).settings
    assert again is not None
    assert again == found._replace(
        addresses=(), dns=(), dns_search=(), mtu=None, table="", save_config=False,
        pre_up=(), post_up=(), pre_down=(), post_down=(),
    )  # fmt: skip


@bounded
@given(data=anything)
def test_strip_fails_only_if_the_parser_does(data: bytes) -> None:
    document = Document.parse(data)
    try:
        strip(document)
    except ConfigError:
        assert examine(document, NAME).settings is None


@bounded
@given(data=files())
def test_written_settings_read_back_the_same(data: bytes) -> None:
    found = examine(Document.parse(data), NAME).settings
    if found is not None:
        assert examine(Document.parse(settings_text(found).encode()), NAME).settings == found
