"""The lines of the transcript are text for people and values for programs."""

from __future__ import annotations

from wgquick.transcript import batch, command, lines_of, note


def test_a_line_is_printed_with_its_mark_and_has_its_text() -> None:
    line, remark = command("[#] in a name"), note("no IPv6")
    assert (line, line.text, line.is_command) == ("[#] [#] in a name", "[#] in a name", True)
    assert (remark, remark.text, remark.is_command) == ("[!] no IPv6", "no IPv6", False)


def test_a_batch_is_printed_at_once_and_has_its_lines() -> None:
    lines = command("ip link"), note("no IPv6")
    assert batch(lines) == "[#] ip link\n[!] no IPv6"
    assert lines_of(batch(lines)) == lines
    assert not batch(())


def test_other_text_has_no_mark() -> None:
    assert [(each.text, each.is_command) for each in lines_of("a\n[#] b")] == [("a", False), ("[#] b", False)]
