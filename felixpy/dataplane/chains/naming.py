"""Names of chains that hold other names of any length. Pure."""

from __future__ import annotations

from hashlib import blake2b

NAME_LIMIT = 120
"""Longest chain name we make; the kernel takes 255 bytes, and listings stay readable."""


def chain_name(prefix: str, text: str) -> str:
    """`prefix` and `text`, cut and marked with a digest where that is too long."""
    name = f"{prefix}-{text}"
    if len(name) <= NAME_LIMIT:
        return name
    return f"{name[: NAME_LIMIT - 17]}-{blake2b(name.encode(), digest_size=8).hexdigest()}"
