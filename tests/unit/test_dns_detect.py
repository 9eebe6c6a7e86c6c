"""How the DNS mode is chosen."""

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
def test_auto_prefers_resolvconf_then_resolved_then_the_file(resolvconf: bool, resolved: bool, mode: str) -> None:
    assert choose("auto", resolvconf=lambda: resolvconf, resolved=lambda: resolved) == mode


@pytest.mark.parametrize("preference", ["resolvconf", "resolved", "file", "off"])
def test_a_given_mode_is_used_without_probing(preference: str) -> None:
    def probe() -> bool:
        raise AssertionError

    assert choose(preference, resolvconf=probe, resolved=probe) == preference


def test_resolved_is_not_probed_if_there_is_a_resolvconf() -> None:
    def probe() -> bool:
        raise AssertionError

    assert choose("auto", resolvconf=lambda: True, resolved=probe) == "resolvconf"
