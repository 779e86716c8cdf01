"""What is wrong with a node, in words, by what it says of itself: nothing where all is well."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from felixpy.status.answers import Failure, NodeStatus


def missing_roles(status: NodeStatus) -> tuple[str, ...]:
    """Roles that the node has had and that no process of it answers for."""
    return tuple(sorted(set(status.expected_roles) - set(status.roles)))


def why_unheard(status: NodeStatus) -> str:
    """Why nothing is known of gobgpd, whose sessions may well be up: an agent that has read nothing leaves it alone."""
    if not status.in_sync and not status.revision:
        return "gobgpd is asked nothing, and goes on as it was, before the datastore has been read"
    return "gobgpd does not answer"


def find_unprogrammed(status: NodeStatus, revision: int) -> tuple[str, ...]:
    """Why a node does not have everything up to `revision` in its kernel and its BGP daemon; nothing when it has."""
    found: list[str] = []
    if not status.in_sync:
        found.append(f"datastore: {status.datastore}")
    elif status.revision < revision:
        found.append(f"has applied revision {status.revision} only, not yet {revision}")
    found += (f"role {role} ran here and does not answer" for role in missing_roles(status))
    if status.kernel is not None:
        if not status.kernel.started:
            found.append("kernel: nothing is written before the datastore has been read")
        found += _failures("kernel", status.kernel.failed, status.kernel.failures)
    if status.bgp is not None:
        found += _failures("BGP", status.bgp.failed, status.bgp.failures)
        if not status.bgp.no_speaker:
            if not status.bgp.generation:
                found.append(f"BGP: {why_unheard(status)}")
            elif status.bgp.advertised != status.bgp.announced:
                found.append(f"BGP: gobgpd has {status.bgp.advertised} of {status.bgp.announced} prefixes to announce")
    return tuple(found)


def find_unready(status: NodeStatus, starting: bool) -> tuple[str, ...]:
    """Why a node should not count as ready, in words.

    Shape   all that is wrong with it; but a session that is down keeps it from being ready only while it is `starting`,
            or where no session is up: a dead neighbour is not this node's fault. Source: node/pkg/health of Calico.
    """
    sessions = tuple(_session_problems(status))
    excused = not starting and status.bgp is not None and status.bgp.established > 0
    return tuple(problem for problem in find_problems(status) if not excused or problem not in sessions)


def _session_problems(status: NodeStatus) -> Iterable[str]:
    for session in status.bgp.sessions if status.bgp is not None else ():
        if not session.established and not session.visitor:
            why = f": {session.last_error}" if session.last_error else ""
            yield f"BGP: the session with {session.address} (AS {session.asn}) is {session.state}{why}"


def find_problems(status: NodeStatus) -> tuple[str, ...]:
    """All that is wrong with a node, in words."""
    found = list(find_unprogrammed(status, 0))
    if status.cni_unready is not None:
        found.append(f"CNI: {status.cni_unready}")
    if status.kernel is not None:
        found += _failures("tunnels", status.kernel.unreached, status.kernel.unreached_ways)
        found += (f"kernel: {one.operation}: {one.error}" for one in status.kernel.contested)
    found += _session_problems(status)
    if status.bgp is not None:
        found += (f"BGP: {one.operation}: {one.error}" for one in (*status.bgp.refusals, *status.bgp.contested))
    if status.layer2 is not None and status.layer2.error:
        found.append(f"layer 2: the responder cannot be asked: {status.layer2.error}")
    if status.layer2 is not None:
        found += (f"layer 2: {words}" for words in status.layer2.own_answers)
    for broken in status.broken_resources:
        found.append(f"{'one field ' if broken.in_part else ''}counts as missing: {broken}")
    if status.broken > len(status.broken_resources):
        found.append(f"counts as missing: {status.broken - len(status.broken_resources)} more")
    return tuple(found)


def _failures(what: str, failed: int, failures: Sequence[Failure]) -> Iterable[str]:
    for failure in failures:
        yield f"{what}: not done: {failure.operation}: {failure.error}"
    if failed > len(failures):
        yield f"{what}: {failed - len(failures)} more not done"
