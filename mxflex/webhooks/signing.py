"""Signatures by which receivers know that it was us.

Source: Standard Webhooks 1.0.0, "Signature scheme" (HMAC-SHA256, `v1`).
"""

from __future__ import annotations

import hashlib
import hmac
from base64 import b64encode
from collections.abc import Iterable


def sign(secrets: Iterable[bytes], message_id: str, timestamp: int, body: bytes) -> str:
    """Give the value of `webhook-signature`: a signature for each secret, with spaces between.

    Args:
        secrets: While one replaces another, both sign; a receiver needs to know one of them.
        message_id: The value of `webhook-id`.
        timestamp: The value of `webhook-timestamp`, in seconds since the epoch.
        body: The body, as it is sent.
    """
    signed = b"%s.%d.%s" % (message_id.encode("ascii"), timestamp, body)
    signatures = (hmac.digest(secret, signed, hashlib.sha256) for secret in secrets)
    return " ".join(f"v1,{b64encode(each).decode('ascii')}" for each in signatures)
