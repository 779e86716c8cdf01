"""Events about Services, as Kubernetes has them: what was decided and why, for `felixctl get events`.

In: a Service, what happened, in words; out: a key and its JSON, written under a lease that nobody keeps. The same thing
said again is the same key, with the later time. Pure.
Source: k8s.io/api/core/v1 (Event); the reasons are MetalLB's.
"""

from __future__ import annotations

from enum import StrEnum
from hashlib import blake2b

import msgspec

from felixpy.controllers.batch import Passing
from felixpy.resources.kinds import BY_TYPE, Name

EVENTS = BY_TYPE["v1", "Event"]
EVENT_TTL_S = 3600
"""As long as an API server keeps them (--event-ttl)."""
COMPONENT = "felixpy-controllers"


class EventReason(StrEnum):
    """MetalLB's words for what became of a Service."""

    ALLOCATED = "IPAllocated"
    FAILED = "AllocationFailed"
    CLEARED = "ClearAssignment"
    ASSIGNED = "nodeAssigned"


def make_event(service: Name, reason: EventReason, message: str, now: str, component: str = COMPONENT) -> Passing:
    """An event about a Service, at `now` (RFC 3339)."""
    digest = blake2b(f"{reason}\n{message}".encode(), digest_size=8).hexdigest()
    name = Name(service.namespace, f"{service.name}.{digest}")
    body = {
        "kind": EVENTS.kind,
        "apiVersion": EVENTS.api_version,
        "metadata": {"name": name.name, "namespace": name.namespace, "creationTimestamp": now},
        "involvedObject": {
            "kind": "Service",
            "apiVersion": "v1",
            "namespace": service.namespace,
            "name": service.name,
        },
        "reason": reason.value,
        "message": message,
        "type": "Warning" if reason in (EventReason.FAILED, EventReason.CLEARED) else "Normal",
        "source": {"component": component},
        "firstTimestamp": now,
        "lastTimestamp": now,
        "count": 1,
    }
    return Passing(EVENTS.key(name).encode(), msgspec.json.encode(body), EVENT_TTL_S)
