"""CNI errors: their codes, and the JSON that tells a container runtime.

Pure. Source: CNI specification 1.1.0, section 5 (error); codes from 100 on are the plugin's own.
"""

from __future__ import annotations

from enum import IntEnum

import msgspec


class Code(IntEnum):
    """What a runtime can tell apart; it retries on TRY_AGAIN, and shows the others."""

    INCOMPATIBLE_VERSION = 1
    UNKNOWN_CONTAINER = 3
    INVALID_ENVIRONMENT = 4
    IO = 5
    DECODE = 6
    INVALID_CONFIG = 7
    TRY_AGAIN = 11
    NOT_AVAILABLE = 50
    LIMITED_CONNECTIVITY = 51
    NO_ADDRESS = 100
    NOT_AS_WIRED = 101
    INTERNAL = 102


class CniError(Exception):
    """A verb did not succeed; `message` says what is wrong, `details` what is known beyond it."""

    def __init__(self, code: Code, message: str, details: str = "") -> None:
        super().__init__(f"{message}: {details}" if details else message)
        self.code = code
        self.message = message
        self.details = details


def render_error(error: CniError, version: str) -> bytes:
    """The error as the runtime reads it from standard output."""
    body = {"cniVersion": version, "code": int(error.code), "msg": error.message}
    return msgspec.json.encode(body | {"details": error.details} if error.details else body) + b"\n"
