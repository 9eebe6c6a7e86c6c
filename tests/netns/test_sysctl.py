"""Kernel parameters are read and written in the caller's namespace; errors have a remedy."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

import pytest

from tests.namespaces import Namespace, host, namespace
from wgquick.errors import OperationError
from wgquick.system import sysctl

if TYPE_CHECKING:
    from collections.abc import Iterator

KEY = "net/ipv4/conf/all/src_valid_mark"


@pytest.fixture
def ns() -> Iterator[Namespace]:
    with namespace() as inside:
        yield inside


def test_a_value_is_written_in_this_namespace_only(ns: Namespace) -> None:
    before = sysctl.read(KEY)
    ns.call(sysctl.write, KEY, "1")
    assert ns.call(sysctl.read, KEY) == "1"
    assert ns.out("sysctl", "-n", "net.ipv4.conf.all.src_valid_mark") == "1\n"
    assert sysctl.read(KEY) == before


def test_a_link_with_a_dot_in_its_name_has_parameters(ns: Namespace) -> None:
    ns.run(["ip", "link", "add", "wg.0", "type", "veth"])
    assert ns.call(sysctl.read, "net/ipv6/conf/wg.0/disable_ipv6") == "0"


def test_a_missing_parameter_reads_as_none_and_cannot_be_set(ns: Namespace) -> None:
    assert ns.call(sysctl.read, "net/ipv4/nonesuch") is None
    assert not ns.call(sysctl.writable, "net/ipv4/nonesuch")
    with pytest.raises(OperationError) as refusal:
        ns.call(sysctl.write, "net/ipv4/nonesuch", "1")
    assert refusal.value.errno == errno.ENOENT


def test_a_read_only_proc_has_a_remedy_for_containers() -> None:
    with host() as machine:
        assert machine.call(sysctl.writable, KEY)
        machine.run(["mount", "--bind", "/proc/sys", "/proc/sys"])
        machine.run(["mount", "-o", "remount,ro,bind", "/proc/sys"])
        assert machine.call(sysctl.read, KEY) == "0"
        assert not machine.call(sysctl.writable, KEY)
        with pytest.raises(OperationError) as refusal:
            machine.call(sysctl.write, KEY, "1")
    assert refusal.value.errno == errno.EROFS
    assert "--sysctl net.ipv4.conf.all.src_valid_mark=1" in refusal.value.remedy


def test_a_refused_value_is_an_error_with_the_key(ns: Namespace) -> None:
    with pytest.raises(OperationError, match=r"net\.ipv4\.conf\.all\.src_valid_mark could not be set to many"):
        ns.call(sysctl.write, KEY, "many")
