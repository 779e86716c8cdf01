"""Workload endpoints as policy sees them: with the labels and named ports that their Pods have now.

An endpoint is written when its pod starts; where the datastore also holds the Pod, that is the truth about labels, and
the endpoint's own are those about the endpoint itself (projectcalico.org/...). What the endpoint does not say (service
account, profiles, ports) is taken from the Pod. Pure; `derive_workloads` is the oracle.
Source: libcalico-go/lib/backend/k8s/conversion/workload_endpoint_default.go (what a pod's endpoint is made of).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

import msgspec

from felixpy.calc.policy.profiles import NAMESPACE_PROFILE, SERVICE_ACCOUNT_PROFILE
from felixpy.resources.kinds import Name
from felixpy.resources.policies import SERVICE_ACCOUNT_LABEL
from felixpy.resources.resource import Resource
from felixpy.resources.tables import Table
from felixpy.resources.types import Pod, WorkloadEndpoint

KUBERNETES = "k8s"
"""The orchestrator of endpoints that have a Pod."""
_OWN = "projectcalico.org/"
_SINGLE_DASH = re.compile(r"(?<!-)-(?!-)")


def pod_of(name: Name, endpoint: WorkloadEndpoint) -> Name | None:
    """The Pod that an endpoint belongs to; None for one of another orchestrator."""
    if endpoint.orchestrator != KUBERNETES or not endpoint.workload:
        return None
    return Name(name.namespace, endpoint.workload)


def workload_of(name: Name) -> str:
    """The pod's (or other workload's) name in the name of its endpoint; "" where that has another form."""
    parts = _SINGLE_DASH.split(name.name)
    return parts[2].replace("--", "-") if len(parts) == 4 else ""


def join_pod(endpoint: WorkloadEndpoint, pod: Pod, namespace: str) -> WorkloadEndpoint:
    """An endpoint with what its Pod says; by itself where that is another pod of the same name.

    A pod that comes anew, on another node perhaps, says nothing of a container of its forerunner's that still runs.
    """
    if endpoint.pod_uid and pod.uid and endpoint.pod_uid != pod.uid:
        return endpoint
    labels = dict(pod.labels)
    if pod.service_account:
        labels[SERVICE_ACCOUNT_LABEL] = pod.service_account
    labels.update((name, value) for name, value in endpoint.labels if name.startswith(_OWN))
    profiles = endpoint.profiles or (
        f"{NAMESPACE_PROFILE}{namespace}",
        *((f"{SERVICE_ACCOUNT_PROFILE}{namespace}.{pod.service_account}",) if pod.service_account else ()),
    )
    return msgspec.structs.replace(
        endpoint, labels=tuple(sorted(labels.items())), profiles=profiles, ports=endpoint.ports or pod.ports
    )


class Workloads:
    """The endpoints joined with their Pods: each change gives the endpoints that are other ones by it."""

    def __init__(self) -> None:
        self._pods: dict[Name, Pod] = {}
        self._endpoints: dict[Name, WorkloadEndpoint] = {}
        self._of_pod: dict[Name, tuple[Name, ...]] = {}

    def put_endpoint(self, name: Name, endpoint: WorkloadEndpoint | None) -> WorkloadEndpoint | None:
        """Takes an endpoint as it is written, None when it is gone; returns it as policy sees it."""
        old = self._endpoints.pop(name, None)
        before = pod_of(name, old) if old is not None else None
        after = pod_of(name, endpoint) if endpoint is not None else None
        if before is not None and before != after:
            left = tuple(other for other in self._of_pod[before] if other != name)
            if left:
                self._of_pod[before] = left
            else:
                del self._of_pod[before]
        if endpoint is None or after is None:
            return endpoint
        self._endpoints[name] = endpoint
        if before != after:
            self._of_pod[after] = (*self._of_pod.get(after, ()), name)
        pod = self._pods.get(after)
        return join_pod(endpoint, pod, name.namespace) if pod is not None else endpoint

    def put_pod(self, name: Name, pod: Pod | None) -> Iterator[tuple[Name, WorkloadEndpoint]]:
        """Takes a Pod, None when it is gone; yields its endpoints as policy sees them now."""
        if pod is None:
            self._pods.pop(name, None)
        else:
            self._pods[name] = pod
        for one in self._of_pod.get(name, ()):
            endpoint = self._endpoints[one]
            yield one, join_pod(endpoint, pod, name.namespace) if pod is not None else endpoint


def derive_workloads(tables: Mapping[Table, Mapping[Name, Resource]]) -> dict[Name, WorkloadEndpoint]:
    """Every endpoint as policy sees it, from scratch."""
    found: dict[Name, WorkloadEndpoint] = {}
    for name, endpoint in tables[Table.WORKLOAD].items():
        if isinstance(endpoint, WorkloadEndpoint):
            wanted = pod_of(name, endpoint)
            pod = tables[Table.POD].get(wanted) if wanted is not None else None
            found[name] = join_pod(endpoint, pod, name.namespace) if isinstance(pod, Pod) else endpoint
    return found
