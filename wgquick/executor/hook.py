"""The shell variables of a hook, and the error message for a hook that fails."""

from __future__ import annotations

from wgquick.errors import NOT_FOUND, HookError, WgqError
from wgquick.lean import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from wgquick.config.document import Document
    from wgquick.config.settings import Settings
    from wgquick.plan.steps import RunHook
    from wgquick.ports import Variables

_MISSING = "A program in the hook is not installed or not on PATH."


def variables(
    step: RunHook, path: str, settings: Settings | None, *, has_dns: bool, has_firewall: bool
) -> Variables:
    """The variables of wg-quick's script at this point. The file's variables are empty without a file.

    `$WG_CONFIG` contains keys, so only a hook that uses it gets it.
    """
    settings = settings or _nothing(step.name)
    return {
        "INTERFACE": step.name,
        "CONFIG_FILE": path,
        "ADDRESSES": tuple(address.text for address in settings.addresses),
        "MTU": "" if settings.mtu is None else str(settings.mtu),
        "DNS": settings.dns,
        "DNS_SEARCH": settings.dns_search,
        "TABLE": settings.table,
        "PRE_UP": settings.pre_up,
        "POST_UP": settings.post_up,
        "PRE_DOWN": settings.pre_down,
        "POST_DOWN": settings.post_down,
        "SAVE_CONFIG": str(int(settings.save_config)),
        "HAVE_SET_DNS": str(int(has_dns)),
        "HAVE_SET_FIREWALL": str(int(has_firewall)),
        **({"WG_CONFIG": _wg_config(settings)} if "WG_CONFIG" in step.command else {}),
    }


def _nothing(name: str) -> Settings:
    from wgquick.config.settings import Settings

    return Settings(name)


def _wg_config(settings: Settings) -> str:
    """The configuration without the keys that wg-quick keeps for itself."""
    from wgquick.config.document import Document, decode, encode
    from wgquick.config.strip import strip
    from wgquick.config.text import settings_text

    return decode(strip(Document.parse(encode(settings_text(settings))))).rstrip("\n") + "\n"


def explained(error: HookError, step: RunHook, path: str) -> HookError:
    """The failure with the hook's place in the file and a likely reason."""
    from wgquick.config.characters import suspicious

    row, column, text = _written(step, path) or (0, 0, step.command)
    where = f"{path}:{row + 1}:{column + 1}" if row else ""
    odd = suspicious(text)
    if odd is None:
        return HookError(error.what, error.status, where=where, remedy=error.remedy or _reason(error.status))
    place = f"{path}:{row + 1}:{column + odd.offset + 1}" if row else f"its character {odd.offset + 1}"
    remedy = f"The hook has {odd.name} at {place}: {odd.remedy}."
    return HookError(error.what, error.status, where=where, remedy=remedy)


def _reason(status: int) -> str:
    return _MISSING if status == NOT_FOUND else ""


def _written(step: RunHook, path: str) -> tuple[int, int, str] | None:
    """The hook's row and column in the file, from 0, and its text; None if the hook is no longer in the file."""
    from wgquick.config import location

    if not path:
        return None
    try:
        document = location.read(location.Location(step.name, path))
    except WgqError:
        return None
    return next(_hooks(step, document), None)


def _hooks(step: RunHook, document: Document) -> Iterator[tuple[int, int, str]]:
    for line in document.views.quick:
        value, start = document.quick_value(line)
        if line.key == step.stage and value.replace("%i", step.name) == step.command:
            yield line.row, start, value
