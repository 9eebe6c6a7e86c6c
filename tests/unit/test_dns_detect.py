"""Which way the DNS is set, decided from what there is."""

from __future__ import annotations

import pytest

from wgquick.system.dns.detect import choose


@pytest.mark.parametrize(
    ("resolvconf", "resolved", "mode"),
    [
        (True, True, "resolvconf"),
        (True, False, "resolvconf"),
        (False, True, "resolved"),
        (False, False, "file"),
    ],
)
def test_auto_takes_resolvconf_then_resolved_then_the_file(resolvconf: bool, resolved: bool, mode: str) -> None:
    assert choose("auto", resolvconf=lambda: resolvconf, resolved=lambda: resolved) == mode


@pytest.mark.parametrize("preference", ["resolvconf", "resolved", "file", "off"])
def test_a_preference_is_the_mode_and_nothing_is_asked(preference: str) -> None:
    def asked() -> bool:
        raise AssertionError

    assert choose(preference, resolvconf=asked, resolved=asked) == preference


def test_resolved_is_not_asked_for_where_there_is_a_resolvconf() -> None:
    def asked() -> bool:
        raise AssertionError

    assert choose("auto", resolvconf=lambda: True, resolved=asked) == "resolvconf"
