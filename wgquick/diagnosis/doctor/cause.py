"""The finding of `wgq doctor`: why a live tunnel does not work, how certain that is, and a remedy."""

from __future__ import annotations

from wgquick.lean import NamedTuple


class Cause(NamedTuple):
    """A finding about a live tunnel; one about a file is a `Finding`.

    `peer` is a public key in base64, None if the finding concerns the whole interface. `evidence` are
    the facts behind it, one sentence each. `other_end` is the command to run at the other end, "" if this end knows
    enough. No text ever has a private or preshared key.
    """

    code: str
    severity: str
    confidence: str
    peer: str | None
    message: str
    evidence: tuple[str, ...] = ()
    remedy: str = ""
    other_end: str = ""
