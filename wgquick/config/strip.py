"""`wg-quick strip`: the lines that `wg` understands, byte for byte as wg-quick(8) prints them."""

from __future__ import annotations

from wgquick.config.document import IFS
from wgquick.config.parser import refuse_save_config
from wgquick.lean import TYPE_CHECKING

if TYPE_CHECKING:
    from wgquick.config.document import Document


def strip(document: Document, path: str = "") -> bytes:
    """Every line that wg-quick does not keep for itself, as bash read it, and the newline that `echo` adds.

    bash's `read -r` drops NUL bytes and trims blanks and tabs; a last line without a newline counts unless it
    is empty then. As in wg-quick, a SaveConfig that is neither true nor false is the one fault: ConfigError,
    with `path`.
    """
    refuse_save_config(document, path)
    kept = {line.row for line in document.views.quick}
    lines = [raw.replace(b"\0", b"").strip(IFS) for raw in document.raw]
    if not lines[-1]:
        kept.add(len(lines) - 1)
    passed = [line for index, line in enumerate(lines) if index not in kept]
    return b"".join(line + b"\n" for line in passed) + b"\n"
