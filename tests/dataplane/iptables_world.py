"""A small node as chains, sets and maps: what the goldens of iptables show."""

from __future__ import annotations

from collections.abc import Mapping

from felixpy.addresses import parse_address, parse_prefix
from felixpy.calc.intent import PolicyId
from felixpy.calc.options import DEFAULTS
from felixpy.calc.services.frontends import BackendAddress, Frontend
from felixpy.dataplane.chains.base import base_objects
from felixpy.dataplane.chains.causes import NO_PROFILE, Cause, Effect
from felixpy.dataplane.chains.endpoint import FROM_ENDPOINTS, TO_ENDPOINTS
from felixpy.dataplane.chains.report import cause_chain, end_in, render_cause
from felixpy.dataplane.chains.service_sets import SETS, encode_backend, encode_slot
from felixpy.dataplane.chains.services import pick_chain, service_base_rules, service_objects
from felixpy.dataplane.iptables.tables import Compiler, World
from felixpy.dataplane.iptables.terms import Place, Table
from felixpy.dataplane.iptables.text import TableSeen, render_changes
from felixpy.dataplane.objects import Chain, Members, Object, Put, PutMembers, Set, SetType
from felixpy.dataplane.rules import (
    MARK_ACCEPT,
    MARK_PASS,
    Accept,
    FamilyIs,
    Goto,
    IcmpIs,
    Jump,
    MarkIs,
    NetIn,
    PortIn,
    ProtocolIs,
    Return,
    Rule,
    SetHas,
    SetMark,
)
from felixpy.dataplane.sets import encode_port_key
from felixpy.resources.kinds import Name
from felixpy.resources.tables import Table as Kept

WEB = Frontend(parse_address("10.96.0.1"), 6, 80)
RED = Set("s4-red", SetType.IPV4)
HTTP = Set("p4-http", SetType.IPV4_PORT)
WEB_POLICY = PolicyId(Kept.GLOBAL_POLICY, Name("", "default.web"))
DENIED = Cause(Effect.DENY, "in", policy=WEB_POLICY, index=3)
LOGGED = Cause(Effect.LOG, "in", policy=WEB_POLICY, index=0)
POLICY = Chain(
    "in-gnp/default.web",
    (
        Rule(Jump(cause_chain(LOGGED)), (ProtocolIs(6), PortIn("destination", ((80, 80), (8000, 8010))))),
        Rule(Goto("allow"), (FamilyIs(4), ProtocolIs(6), SetHas("source", RED.name, 4)), 'said "so"'),
        Rule(Goto("allow"), (FamilyIs(4), SetHas("destination", HTTP.name, 4, ports=True))),
        end_in(DENIED, NetIn("source", (parse_prefix("10.1.0.0/16"), parse_prefix("10.3.0.0/16")))),
        Rule(Goto("pass"), (NetIn("source", (parse_prefix("fd00::/8"), parse_prefix("fe80::/10")), negate=True),)),
        Rule(Goto("allow"), (FamilyIs(6), IcmpIs(6, 128, 0))),
    ),
)
ENDPOINT = (
    Chain(
        "ep-to-cali1",
        (
            Rule(SetMark(0, MARK_ACCEPT | MARK_PASS)),
            Rule(Jump(POLICY.name)),
            Rule(Return(), (MarkIs(MARK_ACCEPT, MARK_ACCEPT),)),
            end_in(NO_PROFILE["in"]),
        ),
    ),
    Chain("ep-from-cali1", (Rule(Accept()),)),
)
SLOTS = tuple(encode_backend(BackendAddress(parse_address(f"10.65.0.{last}"), 8080)) for last in (2, 3))


def small_objects() -> tuple[list[Object], Mapping[Set, Members]]:
    """An endpoint with a policy, and a Service with two backends."""
    pick = pick_chain(SETS[4].frontends, SETS[4].backends, 4, len(SLOTS))
    fixed = (*base_objects(service_base_rules()), *service_objects(), Chain("tunnel-input"))
    members: dict[Set, Members] = {
        RED: {parse_address("10.65.0.2"): b""},
        HTTP: {encode_port_key(parse_address("10.65.0.2"), 6, 80): b""},
        FROM_ENDPOINTS: {b"cali1": b"goto ep-from-cali1"},
        TO_ENDPOINTS: {b"cali1": b"goto ep-to-cali1"},
        SETS[4].services: {encode_port_key(*WEB): f"goto {pick.name}".encode()},
        SETS[4].backends: {encode_slot(WEB, slot): backend for slot, backend in enumerate(SLOTS)},
        SETS[4].hairpins: {parse_address("10.65.0.2") * 2: b""},
    }
    return [
        RED,
        HTTP,
        *fixed,
        *(render_cause(one, DEFAULTS) for one in (DENIED, LOGGED)),
        POLICY,
        *ENDPOINT,
        pick,
    ], members


def small_world() -> World:
    """The same, as all that is desired."""
    objects, members = small_objects()
    world = World()
    for one in objects:
        world.take(Put(one))
    for target, held in members.items():
        world.take(PutMembers(target, held))
    return world


def restore_text(world: World, version: int) -> str:
    """What makes all tables of one family from nothing."""
    compiled = Compiler().compile(world)
    assert not compiled.faults, compiled.faults
    places = [Place(4 if version == 4 else 6, table) for table in Table]
    return "".join(
        str(text) for place in places for text in render_changes(place.table, compiled.tables[place], TableSeen())
    )
