"""What is wrong with a cluster, and with the etcd that holds it. Pure: facts.py reads it, and the nodes are asked."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from felixpy.ctl.applying.overlaps import Claimed, overlapping
from felixpy.ctl.doctor.finding import Finding, Level
from felixpy.ctl.node_text import NO_ANSWER, find_disagreements
from felixpy.status.answers import NodeStatus
from felixpy.status.problems import find_problems

SLOW_MS = 50.0
"""More than this for a linearised read, and leases and policy lag (etcd's own guide: disks under 10 ms)."""
SKEW_S = 5.0
FULL = 0.8


@dataclass(frozen=True, slots=True)
class EtcdFacts:
    """One member of etcd as it was seen; `error` where it does not answer. Times in milliseconds and seconds."""

    endpoint: str
    error: str = ""
    healthy: bool = True
    read_ms: float = 0.0
    skew_s: float = 0.0
    used_bytes: int = 0
    quota_bytes: int = 0
    version: str = ""


def judge_etcd(members: Iterable[EtcdFacts]) -> Iterator[Finding]:
    """What is wrong with etcd."""
    for one in members:
        subject = f"etcd {one.endpoint}"
        if one.error:
            yield Finding(Level.ERROR, subject, f"does not answer: {one.error}")
            continue
        if not one.healthy:
            yield Finding(Level.ERROR, subject, "says that it is not healthy", "etcdctl endpoint status; alarm list")
        if one.read_ms > SLOW_MS:
            yield Finding(Level.WARNING, subject, f"a read takes {one.read_ms:.0f} ms", "a slow disk or network")
        if abs(one.skew_s) > SKEW_S:
            words = f"its clock is {abs(one.skew_s):.0f} s {'ahead of' if one.skew_s > 0 else 'behind'} this machine's"
            yield Finding(Level.WARNING, subject, words, "leases are not harmed, but times that people read are")
        if one.quota_bytes and one.used_bytes > FULL * one.quota_bytes:
            share = 100 * one.used_bytes // one.quota_bytes
            yield Finding(Level.WARNING, subject, f"{share} % of its space is used", "when full, it takes no writes")
    versions = {one.version for one in members if one.version}
    if len(versions) > 1:
        yield Finding(Level.NOTE, "etcd", f"members of several versions: {', '.join(sorted(versions))}")


def judge_cluster(nodes: Mapping[str, NodeStatus | None], claimed: Iterable[Claimed], ready: bool) -> Iterator[Finding]:
    """What is wrong with the nodes together, and with what people configured."""
    if not ready:
        words = "there is no ClusterInformation that says datastoreReady"
        yield Finding(Level.ERROR, "datastore", words, "no agent obeys it; the first one to start makes it")
    if not nodes:
        yield Finding(Level.ERROR, "nodes", "there is no Node resource, and no node answers")
    problems: dict[str, list[str]] = {}
    for name, status in nodes.items():
        for problem in (NO_ANSWER,) if status is None else find_problems(status):
            problems.setdefault(problem, []).append(name)
    for problem, names in problems.items():
        yield Finding(Level.ERROR, ", ".join(names[:3]) + (" and others" if len(names) > 3 else ""), problem)
    for words in find_disagreements(nodes):
        yield Finding(Level.WARNING, "nodes", words.removeprefix("warning: "))
    answered = [status for status in nodes.values() if status is not None]
    if answered and not any(status.leader for status in answered):
        advice = "start a process with the role controllers (felixpy --roles ...)"
        yield Finding(Level.WARNING, "controllers", "nobody gives Services their addresses", advice)
    versions = {status.version for status in answered if status.version}
    if len(versions) > 1:
        yield Finding(Level.NOTE, "nodes", f"agents of several versions: {', '.join(sorted(versions))}")
    for first, second in overlapping(tuple(claimed)):
        yield Finding(Level.ERROR, first.owner, f"{first.text} overlaps {second.text} of {second.owner}")
