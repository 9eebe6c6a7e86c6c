"""A cause: what is wrong with a live tunnel, with what confidence and evidence, and what to do about it."""

from __future__ import annotations

from wgquick.lean import NamedTuple


class Cause(NamedTuple):
    """One finding of doctor. `peer` is a public key in base64, None if it concerns the whole interface.

    `evidence` are the facts behind it, one sentence each. `other_end` is the command to run at the other end, "" if
    this end knows enough. No text ever has a private or preshared key.
    """

    code: str
    severity: str
    confidence: str
    peer: str | None
    message: str
    evidence: tuple[str, ...] = ()
    remedy: str = ""
    other_end: str = ""
