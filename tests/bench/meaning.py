"""What felixctl explain says against packets: 10,000 random flows on two nodes, with each back end.

`python -m tests.bench meaning [FLOWS]`: worlds of random policies, a hundred flows to each; what differs is printed.
"""

from __future__ import annotations

import os
import time

from tests.agent.policy.meaning import try_world, two_nodes_with_pods

FLOWS = 10_000
A_WORLD = 100
BACKENDS = ("nftables", "iptables-legacy", "iptables-nft")


def main() -> None:
    """Prints a line for each back end, and each flow of which explain was wrong."""
    for backend in BACKENDS:
        os.environ["FELIXPY_BACKEND"] = backend
        begin, flows, allowed, wrong = time.monotonic(), 0, 0, 0
        with two_nodes_with_pods() as scene:
            for seed in range(1_000, 1_000 + FLOWS // A_WORLD):
                outcome = try_world(scene, seed, A_WORLD)
                flows, allowed, wrong = flows + outcome.flows, allowed + outcome.allowed, wrong + bool(outcome.wrong)
                if outcome.wrong:
                    print(outcome.wrong, flush=True)
        taken = time.monotonic() - begin
        print(f"{backend:16} {flows} flows, {allowed} got through, {wrong} worlds differ, {taken:.0f} s", flush=True)
    del os.environ["FELIXPY_BACKEND"]
