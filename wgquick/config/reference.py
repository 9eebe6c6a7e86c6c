"""Generates the reference page of the configuration keys from `wgquick.config.keys`.

`python -m wgquick.config.reference` prints it; the repository has it as `docs/configuration.md`.
"""

from __future__ import annotations

from wgquick.config import keys
from wgquick.lean import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_TOP = """# Configuration keys

<!-- Made by `python -m wgquick.config.reference`: change wgquick/config/keys.py. -->

Keys and section names are read in any case. `wgq reload` takes a change of any key to a live interface; hooks are
for the next `wgq up` and `wgq down`. `wgq save` writes the keys of wg(8), Address, DNS and MTU."""


def page() -> str:
    """The page, in Markdown."""
    return "\n".join([_TOP, *_section("Interface"), *_section("Peer"), ""])


def _section(name: str) -> Iterator[str]:
    yield from ("", f"## [{name}]", "", "| key | read by | |", "|---|---|---|")
    for key in keys.of(name):
        yield f"| `{key.name}` | {'wg(8)' if key.of_wg else 'wg-quick(8)'} | {key.help} |"


if __name__ == "__main__":
    print(page(), end="")
