"""Small replacements for parts of the standard library that are slow to import, for `wgq up NAME`.

`typing`, `enum`, `re`, `contextlib`, `json` and `socket` together take longer to import than the interpreter takes
to start, and `typing.NamedTuple` compiles a function for each class. Type checkers see the standard names here.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    import re
    import signal as signal
    from contextlib import contextmanager as contextmanager
    from contextlib import suppress as suppress
    from functools import cached_property as cached_property
    from hashlib import sha256 as sha256
    from json import dumps as dumps
    from json import loads as loads
    from socket import socket as socket
    from typing import NamedTuple as NamedTuple
    from typing import Protocol as Protocol
    from typing import cast as cast
else:
    import _signal as signal  # noqa: F401 - for others; the same functions, on plain numbers
    from _collections import _tuplegetter
    from _json import encode_basestring_ascii, make_encoder, make_scanner
    from _socket import socket as _socket

    class _RecordType(type):
        """Makes the fields of a class from its annotations, as typing.NamedTuple does."""

        def __new__(cls, name, bases, namespace):
            fields = tuple(namespace.get("__annotations__", ()))
            if fields:
                defaults = {each: namespace[each] for each in fields if each in namespace}
                namespace["_field_defaults"], namespace["_last_defaults"] = defaults, tuple(defaults.values())
                namespace["_fields"] = namespace["__match_args__"] = fields
                namespace.update((each, _tuplegetter(at, None)) for at, each in enumerate(fields))
            namespace.setdefault("__slots__", ())
            return super().__new__(cls, name, bases, namespace)

    class NamedTuple(tuple, metaclass=_RecordType):
        """The used parts of typing.NamedTuple."""

        _fields = _last_defaults = ()

        def __new__(cls, *values, **named):
            missing = len(cls._fields) - len(values)
            if named or missing:
                if named or not 0 < missing <= len(cls._last_defaults):
                    values = (*values, *cls._others(values, named))
                else:
                    values += cls._last_defaults[-missing:]
            return tuple.__new__(cls, values)

        @classmethod
        def _others(cls, values, named):
            """The values of the fields that were not given by position."""
            wanted = cls._fields[len(values) :]
            given = {**cls._field_defaults, **named}
            if len(values) <= len(cls._fields) and sum([each in named for each in wanted]) == len(named):
                try:
                    return [given[each] for each in wanted]
                except KeyError:
                    pass
            unknown = named.keys() - set(wanted)
            missing = [each for each in wanted if each not in named and each not in cls._field_defaults]
            raise TypeError(f"{cls.__name__}(): unknown {sorted(unknown)}, missing {missing}, {len(values)} given")

        def _replace(self, **named):
            values = list(map(named.pop, self._fields, self))
            return type(self)(*values, **named)  # the remaining names are unknown

        def _asdict(self):
            return dict(zip(self._fields, self, strict=True))

        def __getnewargs__(self):
            return tuple(self)

        def __repr__(self):
            shown = ", ".join(f"{name}={value!r}" for name, value in zip(self._fields, self, strict=True))
            return f"{type(self).__name__}({shown})"

    class Protocol:
        """typing.Protocol, which only type checkers use."""

    class suppress:  # noqa: N801 - contextlib's name
        """contextlib.suppress."""

        def __init__(self, *kinds):
            self._kinds = kinds

        def __enter__(self):
            return None

        def __exit__(self, kind, _error, _traceback):
            return kind is not None and issubclass(kind, self._kinds)

    class _Context:
        """A generator's run as a context manager."""

        def __init__(self, steps):
            self._steps = steps

        def __enter__(self):
            return next(self._steps)

        def __exit__(self, kind, error, _traceback):
            if kind is None:
                return next(self._steps, False)
            try:
                self._steps.throw(error)
            except StopIteration:
                return True
            except BaseException as raised:
                if raised is error:
                    return False
                raise

    def contextmanager(function):
        """contextlib.contextmanager."""

        def entered(*values, **named):
            return _Context(function(*values, **named))

        entered.__name__, entered.__doc__, entered.__wrapped__ = function.__name__, function.__doc__, function
        return entered

    class cached_property:  # noqa: N801 - functools' name
        """functools.cached_property."""

        def __init__(self, make):
            self._make, self.__doc__ = make, make.__doc__

        def __set_name__(self, owner, name):
            self._name = name

        def __get__(self, instance, owner=None):
            if instance is None:
                return self
            value = instance.__dict__[self._name] = self._make(instance)
            return value

    def sha256(data):
        """hashlib.sha256; without OpenSSL's library, which takes long to load, if this Python has its own."""
        try:
            from _sha256 import sha256
        except ImportError:  # Python 3.12 renamed the module; some distributions leave it out
            try:
                from _sha2 import sha256
            except ImportError:
                from hashlib import sha256
        return sha256(data)

    class socket(_socket):  # noqa: N801 - socket's name
        """socket.socket, closed at the end of a `with` block."""

        def __enter__(self):
            return self

        def __exit__(self, *_):
            self.close()

    class _Grammar:
        """The context that json.JSONDecoder passes to its scanner."""

        strict, memo = True, {}
        object_hook = object_pairs_hook = None
        parse_float, parse_int, parse_constant = float, int, float

    def loads(text):
        """json.loads of one value without surrounding blanks; ValueError if it is not valid."""
        try:
            value, end = make_scanner(_Grammar)(text, 0)
        except (
            StopIteration,
            SystemError,
        ):  # the latter of Python 3.11, which wants to raise an error of json.decoder
            end = -1
        if end != len(text):
            raise ValueError("not a single JSON value")
        return value

    def dumps(value):
        """json.dumps."""
        encode = make_encoder(None, _refuse, encode_basestring_ascii, None, ": ", ", ", False, False, True)
        return "".join(encode(value, 0))

    def _refuse(value):
        raise TypeError(f"{type(value).__name__} is not for JSON here")

    def cast(_kind, value):
        """typing.cast."""
        return value


class Pattern:
    """A regular expression that is compiled, and `re` imported, at its first use."""

    __slots__ = ("_compiled", "_text")

    def __init__(self, text: str) -> None:
        self._text = text
        self._compiled: re.Pattern[str] | None = None

    def __call__(self) -> re.Pattern[str]:
        """The compiled expression."""
        if self._compiled is None:
            import re

            self._compiled = re.compile(self._text)
        return self._compiled
