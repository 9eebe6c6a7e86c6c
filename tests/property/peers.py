"""Peers and secrets."""

from __future__ import annotations

import base64

SECRETS = [base64.b64encode(bytes([number]) * 32).decode() for number in range(1, 9)]
PEERS = [base64.b64encode(bytes([number]) * 32).decode() for number in range(101, 105)]
