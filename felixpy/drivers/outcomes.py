"""Outcomes in the making: the words for what the kernel refused.

In → out: an op and an errno → an Outcome. The kernel's own text (extended ack) wins over strerror(3) where it gave any.
"""

from __future__ import annotations

import errno
import os

from felixpy.dataplane.objects import Op, Outcome

ABSENT = frozenset({errno.ENOENT, errno.ESRCH, errno.ENODEV, errno.EADDRNOTAVAIL, errno.ENXIO})
"""Errors that say that there was nothing to drop, which is what a Drop asks for."""


def failed(op: Op, code: int, text: str = "", subject: str = "") -> Outcome:
    """The outcome of an op that does not hold: errno `code`, the kernel's `text`, and what it is about."""
    words = text or os.strerror(code)
    return Outcome(op, f"{subject}: {words}" if subject else words, code)
