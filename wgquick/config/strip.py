"""`wg-quick strip`: the lines that `wg` understands, byte for byte as wg-quick(8) prints them."""

from __future__ import annotations

from wgquick.config.document import IFS
from wgquick.config.parser import refuse_save_config
from wgquick.lean import TYPE_CHECKING

if TYPE_CHECKING:
    from wgquick.config.document import Document


def strip(document: Document, path: str = "") -> bytes:
    """All lines that wg-quick passes to wg, as bash reads them, and the newline that `echo` adds.

    bash's `read -r` drops NUL bytes and trims blanks and tabs. A last line without a newline counts unless it is
    empty. As in wg-quick, the only fault is a SaveConfig that is neither true nor false: ConfigError, with `path`.
    """
    refuse_save_config(document, path)
    kept = {line.row for line in document.views.quick}
    lines = [raw.replace(b"\0", b"").strip(IFS) for raw in document.raw]
    if not lines[-1]:
        kept.add(len(lines) - 1)
    passed = [line for index, line in enumerate(lines) if index not in kept]
    return b"".join(line + b"\n" for line in passed) + b"\n"
