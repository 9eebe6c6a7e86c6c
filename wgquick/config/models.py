"""A configuration as frozen pydantic models, with the same grammar as files.

Values are strings in a file's notation or values of `wgquick.net`. Only `to_text` shows private and preshared keys:
`repr`, dumps, JSON and errors do not.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

from pydantic import (
    BaseModel,
    ConfigDict,
    ModelWrapValidatorHandler,
    PlainSerializer,
    PlainValidator,
    ValidationError,
    WithJsonSchema,
    field_validator,
    model_validator,
)
from pydantic_core import InitErrorDetails, PydanticCustomError

from wgquick.config import grammar
from wgquick.config.document import SPACE, Document, encode
from wgquick.config.extras import is_netns_name, network
from wgquick.config.keys import KEYS
from wgquick.config.location import is_valid_name, valid_name
from wgquick.config.parser import parse
from wgquick.config.settings import LAN, Extras, PeerSettings, Settings
from wgquick.config.settings import Address as AddressValue
from wgquick.config.text import settings_text
from wgquick.errors import ConfigError, Diagnostic
from wgquick.net import HIDDEN, AllowedIP, Endpoint, Prefix, PublicKey, SecretKey

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")
Model = TypeVar("Model", bound="_Model")

_WITHOUT_SPACE = dict.fromkeys(map(ord, SPACE))


def _text_or(kind: type[T], read: Callable[[str], T]) -> Callable[[object], T]:
    """A validator that accepts a value of `kind`, or reads a text without whitespace as in wg's lines."""

    def validate(value: object) -> T:
        if isinstance(value, kind):
            return value
        if isinstance(value, str):
            return read(value.translate(_WITHOUT_SPACE))
        raise ValueError(f"text or {kind.__name__} is needed")

    return validate


def _number_or(most: int, read: Callable[[str], int]) -> Callable[[object], int]:
    """A validator for a number or its notation in a file."""

    def validate(value: object) -> int:
        if isinstance(value, str):
            return read(value.translate(_WITHOUT_SPACE))
        if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= most:
            return value
        raise ValueError(f"a number from 0 to {most} is needed")

    return validate


def _list_of(
    item: Callable[[object], T], split: Callable[[str], Iterable[str]]
) -> Callable[[object], tuple[T, ...]]:
    """A validator for a list or its notation in a file."""

    def validate(value: object) -> tuple[T, ...]:
        if isinstance(value, str):
            return tuple(item(word) for word in split(value))
        if isinstance(value, Iterable):
            return tuple(item(each) for each in value)
        raise ValueError("a list, or text with commas, is needed")

    return validate


def _wg_words(value: str) -> list[str]:
    return value.split(",") if value.strip(SPACE) else []


def _one(value: str) -> list[str]:
    return [value]


def _line(value: object) -> str:
    """A hook: one line of text, trimmed."""
    if not isinstance(value, str):
        raise ValueError("text is needed")
    if "\n" in value or "\0" in value:
        raise ValueError("a hook is one line")
    return value.strip(SPACE)


def _word(value: object) -> str:
    if not isinstance(value, str) or [value] != grammar.word_texts(value) or set("#\0\r\v\f") & set(value):
        raise ValueError("a single word is needed")
    return value


def _server(value: object) -> str:
    word = _word(value)
    if not grammar.is_nameserver(word):
        raise ValueError("a DNS server is an address; a search domain belongs in dns_search")
    return word


def _search_domain(value: object) -> str:
    word = _word(value)
    if grammar.is_nameserver(word):
        raise ValueError("an address belongs in dns")
    return word


def _table(value: object) -> str:
    text = str(value) if isinstance(value, int) and not isinstance(value, bool) else value
    return "" if text == "" else _word(text)


def _netns(value: object) -> str:
    if not isinstance(value, str) or (value and not is_netns_name(value)):
        raise ValueError("the name of a network namespace is needed")
    return value


def _excluded(value: object) -> Prefix | str:
    if isinstance(value, Prefix) or value == LAN:
        return value
    if not isinstance(value, str):
        raise ValueError("text or Prefix is needed")
    return network(value)


def _hidden(_key: SecretKey) -> str:
    return HIDDEN


def _texts(values: Iterable[object]) -> list[str]:
    return [str(value) for value in values]


def _address_texts(addresses: Iterable[AddressValue]) -> list[str]:
    return [address.text for address in addresses]


# The table (`keys`) says how a value is read. The fields and their types stand here once more, as type checkers and
# editors see only what is in the source. A test compares the fields with the table.
_STRING = WithJsonSchema({"type": "string"})
_NUMBER = WithJsonSchema({"type": "integer"})
_STRINGS = WithJsonSchema({"type": "array", "items": {"type": "string"}})
_AS_TEXT = PlainSerializer(str, return_type=str)
_AS_TEXTS = PlainSerializer(_texts, return_type=list[str])
_AS_ADDRESSES = PlainSerializer(_address_texts, return_type=list[str])
_AS_HIDDEN = PlainSerializer(_hidden, when_used="json")

_Public = Annotated[PublicKey, PlainValidator(_text_or(PublicKey, KEYS["PublicKey"].read)), _AS_TEXT, _STRING]
_Private = Annotated[SecretKey, PlainValidator(_text_or(SecretKey, KEYS["PrivateKey"].read)), _AS_HIDDEN, _STRING]
_Preshared = Annotated[
    SecretKey, PlainValidator(_text_or(SecretKey, KEYS["PresharedKey"].read)), _AS_HIDDEN, _STRING
]
_EndpointField = Annotated[Endpoint, PlainValidator(_text_or(Endpoint, KEYS["Endpoint"].read)), _AS_TEXT, _STRING]
_AllowedIPs = Annotated[
    tuple[AllowedIP, ...],
    PlainValidator(_list_of(_text_or(AllowedIP, KEYS["AllowedIPs"].read), _wg_words)),
    _AS_TEXTS,
    _STRINGS,
]
_Addresses = Annotated[
    tuple[AddressValue, ...],
    PlainValidator(_list_of(_text_or(AddressValue, KEYS["Address"].read), grammar.word_texts)),
    _AS_ADDRESSES,
    _STRINGS,
]
_Port = Annotated[int, PlainValidator(_number_or(0xFFFF, KEYS["ListenPort"].read)), _NUMBER]
_Mark = Annotated[int, PlainValidator(_number_or(0xFFFFFFFF, KEYS["FwMark"].read)), _NUMBER]
_Keepalive = Annotated[int, PlainValidator(_number_or(0xFFFF, KEYS["PersistentKeepalive"].read)), _NUMBER]
_Mtu = Annotated[int, PlainValidator(_number_or(0x7FFFFFFF, KEYS["MTU"].read)), _NUMBER]
_Hooks = Annotated[tuple[str, ...], PlainValidator(_list_of(_line, _one)), _AS_TEXTS, _STRINGS]
_Servers = Annotated[tuple[str, ...], PlainValidator(_list_of(_server, grammar.word_texts)), _AS_TEXTS, _STRINGS]
_Search = Annotated[
    tuple[str, ...], PlainValidator(_list_of(_search_domain, grammar.word_texts)), _AS_TEXTS, _STRINGS
]
_Exclude = Annotated[
    tuple[Prefix | str, ...], PlainValidator(_list_of(_excluded, grammar.word_texts)), _AS_TEXTS, _STRINGS
]
_Netns = Annotated[str, PlainValidator(_netns), _STRING]
_Table = Annotated[str, PlainValidator(_table), _STRING]


class _Model(BaseModel):
    """Base of the models: frozen, no unknown fields, and errors without the input."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True, arbitrary_types_allowed=True)

    @model_validator(mode="wrap")
    @classmethod
    def _without_input(cls, value: Any, handler: ModelWrapValidatorHandler[Model]) -> Model:
        """Remove the input, which may be a key, from `ValidationError.errors()` as well."""
        try:
            return handler(value)
        except ValidationError as error:
            details = [_without_input(each) for each in error.errors(include_input=False, include_url=False)]
            raise ValidationError.from_exception_data(error.title, details, hide_input=True) from None


def _without_input(detail: Any) -> InitErrorDetails:
    message = detail["msg"].replace("{", "(").replace("}", ")")
    return InitErrorDetails(type=PydanticCustomError(detail["type"], message), loc=detail["loc"], input=None)


class Interface(_Model):
    """[Interface]. None and empty lists: not set.

    The last four are wgq's own settings, which are comments in the file (`config.extras`).
    """

    private_key: _Private | None = None
    listen_port: _Port | None = None
    fwmark: _Mark | None = None
    address: _Addresses = ()
    dns: _Servers = ()
    dns_search: _Search = ()
    mtu: _Mtu | None = None
    table: _Table = ""
    pre_up: _Hooks = ()
    post_up: _Hooks = ()
    pre_down: _Hooks = ()
    post_down: _Hooks = ()
    save_config: bool = False
    kill_switch: bool = False
    exclude: _Exclude = ()
    keep_inbound: bool = False
    netns: _Netns = ""

    if TYPE_CHECKING:  # the types that the validators accept

        def __init__(
            self,
            *,
            private_key: SecretKey | str | None = None,
            listen_port: int | str | None = None,
            fwmark: int | str | None = None,
            address: Iterable[AddressValue | str] = (),
            dns: Iterable[str] = (),
            dns_search: Iterable[str] = (),
            mtu: int | str | None = None,
            table: int | str = "",
            pre_up: Iterable[str] = (),
            post_up: Iterable[str] = (),
            pre_down: Iterable[str] = (),
            post_down: Iterable[str] = (),
            save_config: bool = False,
            kill_switch: bool = False,
            exclude: Iterable[Prefix | str] = (),
            keep_inbound: bool = False,
            netns: str = "",
        ) -> None: ...

    @field_validator("address")
    @classmethod
    def _once(cls, addresses: tuple[AddressValue, ...]) -> tuple[AddressValue, ...]:
        assigned: set[object] = set()
        for address in addresses:
            identity = grammar.identity(address)
            if identity in assigned:
                raise ValueError(f"Address `{address.text}' is given twice")
            if identity:
                assigned.add(identity)
        return addresses


class Peer(_Model):
    """[Peer]. With `replace_allowed_ips` None, incremental entries (`+`, `-`) keep the others, as in wg(8)."""

    public_key: _Public
    preshared_key: _Preshared | None = None
    allowed_ips: _AllowedIPs = ()
    replace_allowed_ips: bool | None = None
    endpoint: _EndpointField | None = None
    persistent_keepalive: _Keepalive | None = None

    if TYPE_CHECKING:

        def __init__(
            self,
            *,
            public_key: PublicKey | str,
            preshared_key: SecretKey | str | None = None,
            allowed_ips: Iterable[AllowedIP | str] = (),
            replace_allowed_ips: bool | None = None,
            endpoint: Endpoint | str | None = None,
            persistent_keepalive: int | str | None = None,
        ) -> None: ...

    @classmethod
    def from_settings(cls, settings: PeerSettings) -> Peer:
        """The model of parsed settings; `replace_allowed_ips` is None if it follows from the entries."""
        peer = cls.model_construct(**settings._asdict())
        follows = peer.model_copy(update={"replace_allowed_ips": None})
        return follows if follows.settings == settings else peer

    @property
    def settings(self) -> PeerSettings:
        """The same as plain values."""
        replaces = self.replace_allowed_ips
        if replaces is None:
            replaces = not any(ip.change for ip in self.allowed_ips)
        values = {field: getattr(self, field) for field in PeerSettings._fields}
        return PeerSettings(**values | {"replace_allowed_ips": replaces})


class WgQuickConfig(_Model):
    """A whole configuration and the interface's name; `path` is its file, empty if there is none."""

    name: str
    interface: Interface = Interface()
    peers: tuple[Peer, ...] = ()
    path: str = ""

    if TYPE_CHECKING:

        def __init__(
            self, *, name: str, interface: Interface = ..., peers: Iterable[Peer] = (), path: str = ""
        ) -> None: ...

    @field_validator("name")
    @classmethod
    def _valid_name(cls, name: str) -> str:
        if not is_valid_name(name):
            raise ValueError("an interface's name has 1 to 15 letters, digits or characters of _ = + . -")
        return name

    @classmethod
    def from_text(cls, text: str | bytes, *, name: str = "wg0", path: str = "") -> WgQuickConfig:
        """Read a file's text; ConfigError with all faults, WgqError if the name is not valid."""
        valid_name(name)
        data = _encoded(text, path) if isinstance(text, str) else text
        return cls.from_settings(parse(Document.parse(data, path), name, path))

    @classmethod
    def from_settings(cls, settings: Settings) -> WgQuickConfig:
        """The model of parsed settings, without another validation."""
        plain = settings._asdict()
        own = {field: plain.pop(field) for field in ("name", "path")}
        peers = tuple(map(Peer.from_settings, plain.pop("peers")))
        del plain["option_extras"]  # the extras have them
        plain |= plain.pop("extras")._asdict()
        interface = Interface.model_construct(address=plain.pop("addresses"), **plain)
        return cls.model_construct(**own, interface=interface, peers=peers)

    @property
    def settings(self) -> Settings:
        """The same as plain values."""
        own = {field: getattr(self.interface, field) for field in Interface.model_fields if field != "address"}
        peers = tuple(peer.settings for peer in self.peers)
        extras = Extras(**{field: own.pop(field) for field in Extras._fields})
        addresses = self.interface.address
        return Settings(name=self.name, path=self.path, addresses=addresses, peers=peers, extras=extras, **own)

    def to_text(self) -> str:
        """A configuration file, with its secrets, that reads as this configuration."""
        return settings_text(self.settings)


def _encoded(text: str, path: str) -> bytes:
    """The bytes of a text; ConfigError instead of the codec's error, which would contain the keys."""
    try:
        return encode(text)
    except UnicodeEncodeError as error:
        at = error.start
    place = text.count("\n", 0, at) + 1, at - text.rfind("\n", 0, at)
    what = "half of a surrogate pair is not a character"
    raise ConfigError(path, [Diagnostic(*place, "encoding", what, "decode the text as UTF-8")])
