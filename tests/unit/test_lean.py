"""`lean` replaces parts of the standard library for `wgq up`, and behaves like the originals."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import socket
import subprocess
import sys
import typing
from typing import TYPE_CHECKING, Any

import pytest

from wgquick import lean
from wgquick.net import Prefix, Rule

if TYPE_CHECKING:
    from collections.abc import Iterator


class Lean(lean.NamedTuple):
    first: int
    second: str = "two"
    third: tuple[int, ...] = ()

    @property
    def double(self) -> int:
        return 2 * self.first


class Standard(typing.NamedTuple):
    first: int
    second: str = "two"
    third: tuple[int, ...] = ()


CALLS: list[tuple[tuple[Any, ...], dict[str, Any]]] = [
    ((1,), {}),
    ((1, "x"), {}),
    ((1, "x", (3,)), {}),
    ((), {"first": 1}),
    ((1,), {"third": (2,)}),
    ((), {"third": (2,), "first": 3, "second": ""}),
]
WRONG: list[tuple[tuple[Any, ...], dict[str, Any]]] = [
    ((), {}),
    ((1, "x", (), 4), {}),
    ((1,), {"first": 2}),
    ((1,), {"fourth": 2}),
    ((), {"second": "x"}),
]


@pytest.mark.parametrize(("values", "named"), CALLS)
def test_a_record_behaves_like_a_named_tuple(values: tuple[Any, ...], named: dict[str, Any]) -> None:
    one, other = Lean(*values, **named), Standard(*values, **named)
    assert tuple(one) == tuple(other)
    assert repr(one) == repr(other).replace("Standard", "Lean")
    assert (one.first, one.second, one.third) == (other.first, other.second, other.third)
    assert one._asdict() == other._asdict()
    assert tuple(one._replace(second="new")) == tuple(other._replace(second="new"))
    assert hash(one) == hash(other)
    assert one.double == 2 * one.first
    assert pickle.loads(pickle.dumps(one)) == one
    assert type(pickle.loads(pickle.dumps(one))) is Lean


@pytest.mark.parametrize(("values", "named"), WRONG)
def test_a_record_refuses_the_same_arguments_as_a_named_tuple(
    values: tuple[Any, ...], named: dict[str, Any]
) -> None:
    for kind in (Lean, Standard):
        with pytest.raises(TypeError):
            kind(*values, **named)


def test_a_record_is_immutable_and_has_no_other_fields() -> None:
    record = Lean(1)
    with pytest.raises(AttributeError):
        record.first = 2  # type: ignore[misc]
    with pytest.raises(AttributeError):
        record.fourth = 2  # type: ignore[attr-defined]
    with pytest.raises(TypeError):
        record._replace(fourth=2)  # type: ignore[call-arg]


def test_a_record_works_with_match() -> None:
    match Rule(4, 254, suppress_prefixlength=0):
        case Rule(family, table, suppress_prefixlength=length):
            assert (family, table, length) == (4, 254, 0)
    assert isinstance(Prefix.parse("10.0.0.0/8"), tuple)


VALUES: list[object] = [
    'a\u1234"\\\n\t\udc80',
    "",
    1,
    -(2**70),
    True,
    False,
    None,
    [1, [True, ["x"]], {}],
    {"undo": ["DeleteRule", [4, 51820, None, 51820, None, False]]},
    ("a", 1),
]


@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_values_are_written_and_read_like_json(value: object) -> None:
    text = json.dumps(value)
    assert lean.dumps(value) == text
    assert lean.loads(text) == json.loads(text)


@pytest.mark.parametrize("text", ["", "{", "[1", "nul", "1 2", '"a', "{'a': 1}", "[1]x", '"\n"', "\x00"])
def test_invalid_json_is_a_value_error(text: str) -> None:
    for loads in (lean.loads, json.loads):
        with pytest.raises(ValueError):
            loads(text)


def test_a_value_without_a_json_form_is_a_type_error() -> None:
    with pytest.raises(TypeError):
        lean.dumps({"a": object()})


@pytest.mark.parametrize("made", [lean.contextmanager, contextlib.contextmanager])
def test_a_generator_becomes_a_context_manager(made: Any) -> None:
    events: list[str] = []

    @made  # type: ignore[untyped-decorator]
    def context(swallowed: type[Exception]) -> Iterator[str]:
        """A docstring."""
        try:
            yield "inside"
        except swallowed as error:
            events.append(f"swallowed {error}")
        finally:
            events.append("after")

    assert context.__doc__ == "A docstring."
    with context(KeyError) as word:
        events.append(word)

    def run(error: Exception) -> None:
        with context(ValueError):
            raise error

    run(ValueError("one"))
    with pytest.raises(TypeError, match="other"):
        run(TypeError("other"))
    assert events == ["inside", "after", "swallowed one", "after", "after"]


@pytest.mark.parametrize("made", [lean.contextmanager, contextlib.contextmanager])
def test_an_error_of_the_generator_replaces_the_blocks(made: Any) -> None:
    @made  # type: ignore[untyped-decorator]
    def context() -> Iterator[None]:
        try:
            yield
        except ValueError:
            raise KeyError("own") from None

    with pytest.raises(KeyError, match="own"), context():
        raise ValueError


def test_suppress_lets_other_errors_pass() -> None:
    with lean.suppress(OSError, KeyError):
        raise FileNotFoundError
    with pytest.raises(ValueError), lean.suppress(OSError):
        raise ValueError


def test_a_socket_is_closed_after_its_block() -> None:
    with lean.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as made:
        assert made.fileno() >= 0
        assert not os.get_inheritable(made.fileno())
    assert made.fileno() == -1


def test_a_pattern_is_compiled_once_on_first_use() -> None:
    pattern = lean.Pattern(r"a+")
    assert pattern().fullmatch("aaa")
    assert pattern() is pattern()


@pytest.mark.parametrize("text", ["{", '{"a": ', "[1,", '"a', '{"a" 1}', "[1 2]", "\\x", ""])
def test_invalid_json_is_a_value_error_without_the_json_module(text: str) -> None:
    """The scanner raises an error class of json.decoder, which `wgq down` does not import."""
    program = f"""
import sys
from wgquick import lean
assert not any(name.startswith("json") for name in sys.modules)
try:
    lean.loads({text!r})
except ValueError:
    print("refused")
"""
    done = subprocess.run([sys.executable, "-c", program], check=False, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("refused\n", "")
