"""What goes wrong during a call, in the runtime's terms.

In → out: any exception → CniError, and whether what failed may be done all the same. Logs what nobody foresaw.
Source: CNI specification 1.1.0, section 5.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from felixpy.cni.errors import CniError, Code
from felixpy.datastore.model import DatastoreError
from felixpy.drivers.netlink.pods.link import PodError

log = logging.getLogger(__name__)


@asynccontextmanager
async def within(limit_s: float, otherwise: str) -> AsyncIterator[None]:
    """What is inside is done within `limit_s`, or a TRY_AGAIN says `otherwise`."""
    try:
        async with asyncio.timeout(limit_s):
            yield
    except TimeoutError:
        raise CniError(Code.TRY_AGAIN, otherwise, f"waited {limit_s:g} s") from None


def may_yet_be(error: BaseException) -> bool:
    """Whether what failed may be done all the same, by a datastore that has not said so."""
    return isinstance(error, DatastoreError | TimeoutError) or (
        isinstance(error, CniError) and error.code is Code.TRY_AGAIN
    )


def as_cni_error(error: BaseException) -> CniError:
    """Any failure in the runtime's terms; what nobody foresaw is logged with its traceback."""
    match error:
        case CniError():
            return error
        case TimeoutError():
            return CniError(Code.TRY_AGAIN, "no answer in time", str(error))
        case DatastoreError():
            return CniError(Code.TRY_AGAIN, "the datastore cannot be used", str(error))
        case PodError():
            return CniError(Code.IO, "the pod cannot be wired", error.strerror or str(error))
        case OSError():
            return CniError(Code.IO, "the pod's network namespace cannot be used", str(error))
        case _:
            log.error("unforeseen", exc_info=error)
            return CniError(Code.INTERNAL, "internal error", f"{type(error).__name__}: {error}")
