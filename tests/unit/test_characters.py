"""Confusing characters are reported with their name and a remedy."""

from __future__ import annotations

import pytest

from wgquick.config.characters import foreign, plain, suspicious

ODD = [
    ("\u00a0", "U+00A0 NO-BREAK SPACE", " "),
    ("\u202f", "U+202F NARROW NO-BREAK SPACE", " "),
    ("\u3000", "U+3000 IDEOGRAPHIC SPACE", " "),
    ("\u200b", "U+200B ZERO WIDTH SPACE", ""),
    ("\u200c", "U+200C ZERO WIDTH NON-JOINER", ""),
    ("\u200d", "U+200D ZERO WIDTH JOINER", ""),
    ("\u2060", "U+2060 WORD JOINER", ""),
    ("\ufeff", "U+FEFF ZERO WIDTH NO-BREAK SPACE", ""),
    ("\u00ad", "U+00AD SOFT HYPHEN", ""),
    ("\u200f", "U+200F RIGHT-TO-LEFT MARK", ""),
    ("\u202e", "U+202E RIGHT-TO-LEFT OVERRIDE", ""),
    ("\u2028", "U+2028 LINE SEPARATOR", ""),
    ("\u0085", "U+0085 CONTROL CHARACTER", ""),
    ("\x1b", "U+001B CONTROL CHARACTER", ""),
    ("\u2800", "U+2800 BRAILLE PATTERN BLANK", ""),
    ("\ufe0f", "U+FE0F VARIATION SELECTOR-16", ""),
    ("\u2010", "U+2010 HYPHEN", "-"),
    ("\u2013", "U+2013 EN DASH", "-"),
    ("\u2014", "U+2014 EM DASH", "-"),
    ("\u2212", "U+2212 MINUS SIGN", "-"),
    ("\u201c", "U+201C LEFT DOUBLE QUOTATION MARK", '"'),
    ("\u201e", "U+201E DOUBLE LOW-9 QUOTATION MARK", '"'),
    ("\u2019", "U+2019 RIGHT SINGLE QUOTATION MARK", "'"),
    ("\u2032", "U+2032 PRIME", "'"),
    ("\uff1d", "U+FF1D FULLWIDTH EQUALS SIGN", "="),
    ("\uff11", "U+FF11 FULLWIDTH DIGIT ONE", "1"),
    ("\uff0e", "U+FF0E FULLWIDTH FULL STOP", "."),
    ("\u2044", "U+2044 FRACTION SLASH", "/"),
    ("\u2026", "U+2026 HORIZONTAL ELLIPSIS", "..."),
    ("\ufb01", "U+FB01 LATIN SMALL LIGATURE FI", "fi"),
    ("\udca0", "the byte 0xA0 (in Windows-1252 U+00A0 NO-BREAK SPACE)", " "),
    ("\udc96", "the byte 0x96 (in Windows-1252 U+2013 EN DASH)", "-"),
]


@pytest.mark.parametrize(("char", "name", "meant"), ODD, ids=[name for _, name, _ in ODD])
def test_an_odd_character_has_offset_name_and_remedy(char: str, name: str, meant: str) -> None:
    found = suspicious(f"caf\u00e9 {char}x")
    assert found is not None
    assert (found.offset, found.name) == (5, name)
    assert (meant.strip() or ("blank" if meant else "delete")) in found.remedy
    assert plain(f"caf\u00e9 {char}x") == f"caf\u00e9 {meant}x"


@pytest.mark.parametrize("text", ["", "Key = value # c", "\t x \r\n", "caf\u00e9", "\u0430\u0431", "\u4e2d\u6587"])
def test_ascii_and_letters_of_any_script_are_not_odd(text: str) -> None:
    assert suspicious(text) is None
    assert plain(text) == text


def test_a_letter_of_another_script_is_foreign_in_ascii_values() -> None:
    found = foreign("P\u0430ss")
    assert found is not None
    assert found[:2] == (1, "U+0430 CYRILLIC SMALL LETTER A")
    assert foreign("ASCII") is None
