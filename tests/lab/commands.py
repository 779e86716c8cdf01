"""The lab's commands that need the virtual environment: bring it up, prove it again, run something inside a node."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

from tests.lab.build import Lab
from tests.lab.ground import REPOSITORY, Ground
from tests.lab.prove import prove, show
from tests.lab.say import Teller
from tests.lab.topology import Node, load_topology
from tests.lab.world import World


def bring_up(ground: Ground, say: Teller, path: Path) -> int:
    """Builds the lab that a file describes, proves it, and says what to try next; what was up before goes first."""
    begin = time.monotonic()
    topology = load_topology(path)
    say.heading(f"Lab {topology.name}, from {path}")
    if not ground.is_clean:
        with say.step("the lab that was here before is removed"):
            ground.clear()
    world = World(Lab(topology, ground))
    try:
        world.lab.build(say)
        world.populate(say)
    except (AssertionError, OSError) as error:
        say.line(f"\n{error}\n\nLogs are in {ground.directory}; `make lab-down` removes all of it.")
        return 1
    say.heading("Proof")
    checks = prove(world, say)
    show(checks, say)
    say.line(f"\nUp and proved in {time.monotonic() - begin:.1f} s, and left running. Try next:\n")
    for command, purpose in _next_steps(world):
        say.line(f"  {command}")
        say.note(f"    {purpose}")
    return 0 if all(check.holds for check in checks) else 1


def prove_again(ground: Ground, say: Teller) -> int:
    """Checks every claim on the lab that is up."""
    record = ground.read_record()
    if record is None or not record.complete:
        say.line("no lab is up: `make lab` builds one")
        return 1
    checks = prove(World(Lab(load_topology(Path(record.topology)), ground)), say)
    show(checks, say)
    return 0 if all(check.holds for check in checks) else 1


def run_inside(ground: Ground, node: str, argv: list[str]) -> int:
    """Runs a command (a shell when there is none) inside a node, with the node's environment; its code."""
    record = ground.read_record()
    if record is None:
        print("no lab is up: `make lab` builds one", file=sys.stderr)
        return 1
    lab = Lab(load_topology(Path(record.topology)), ground)
    try:
        place = lab.topology.node(node)
    except KeyError:
        print(f"no node {node!r}: {', '.join(n.name for n in lab.topology.nodes)}", file=sys.stderr)
        return 2
    words = [lab.localise(place, word) for word in argv] or ["bash"]
    command = lab.namespace(node).enter_argv(words)
    return subprocess.run(command, env={**os.environ, **lab.environment(place)}).returncode


def _show_routes(router: Node) -> str:
    if router.command[0] == "bird":
        return "birdc -s /run/bird/bird.ctl show route"
    return "vtysh --vty_socket /run/frr -c 'show bgp ipv4'"


def _next_steps(world: World) -> list[tuple[str, str]]:
    """Commands to paste, and what each shows."""
    python = os.path.relpath(sys.executable) if Path(sys.executable).is_relative_to(REPOSITORY) else sys.executable
    instance = world.lab.ground.instance
    run = f"{python} -m tests.lab" + (f" --instance {instance}" if instance else "")
    inside = f"{run} exec {world.nodes[0].name}"
    return [
        (f"{inside} felixctl status", "what each node has in its kernel"),
        (f"{inside} felixctl get weps -A -o wide", "the pods, in Calico's data model"),
        (f"{inside} nft list table inet felixpy", "the policy as the kernel has it"),
        (f"{run} exec {world.router.name} {_show_routes(world.router)}", "what the router has learned"),
        (f"{run} exec client curl -s http://{world.service_address() or 'VIP'}", "a Service, from outside"),
        (f"{inside} pod add mine && {inside} pod del mine", "a pod of your own"),
        (f"{run} prove", "all claims once more"),
        (f"{run} down" if instance else "make lab-down", "nothing is left"),
    ]
