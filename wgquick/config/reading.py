"""Reads the settings of a located file and prints the warnings of wg-quick and wg."""

from __future__ import annotations

from wgquick.config import location
from wgquick.config.parser import examine, for_down
from wgquick.errors import ConfigError
from wgquick.lean import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import BinaryIO

    from wgquick.config.document import Document
    from wgquick.config.location import Location
    from wgquick.config.settings import Settings
    from wgquick.errors import Diagnostic

STANDARD_INPUT_PATH = "standard input"


def read_settings(
    found: Location,
    say: Callable[[str], None],
    standard_input: BinaryIO | None = None,
    *,
    when_valid: Callable[[Location, Document], None] | None = None,
) -> Settings:
    """The settings of a file; `say` takes the world access warning and wg's own, each as one line.

    `when_valid` is called with the file if it has no faults.
    """
    location.warn_of_world_access(found, say)
    document = location.read(found, standard_input)
    report = examine(document, found.name)
    for warning in report.warnings:
        say(_warning(warning, found.path or STANDARD_INPUT_PATH))
    if report.settings is None:
        raise ConfigError(found.path or STANDARD_INPUT_PATH, report.faults)
    if when_valid is not None:
        when_valid(found, document)
    return report.settings


def _warning(warning: Diagnostic, path: str) -> str:
    """The text of a warning: as wg prints it, or with place and remedy if only wgq gives it."""
    if warning.code == "allowed-ip-host-bits":
        return f"Warning: {warning.message}"
    place = f"{path}:{warning.line}:{warning.column}"
    return f"Warning: {place}: {warning.message} [{warning.code}]\n  {warning.remedy}"


def read_for_down(
    found: Location, say: Callable[[str], None], standard_input: BinaryIO | None = None
) -> tuple[Settings, ConfigError | None]:
    """A file's settings and None, or the settings that down needs and the faults."""
    location.warn_of_world_access(found, say)
    document = location.read(found, standard_input)
    report = examine(document, found.name)
    if report.settings is not None:
        return report.settings, None
    faults = ConfigError(found.path or STANDARD_INPUT_PATH, report.faults)
    return for_down(document, found.name), faults


def read_stripped(found: Location, say: Callable[[str], None], standard_input: BinaryIO | None = None) -> bytes:
    """The output of `wg-quick strip`."""
    from wgquick.config import strip

    location.warn_of_world_access(found, say)
    return strip.strip(location.read(found, standard_input), found.path or STANDARD_INPUT_PATH)
