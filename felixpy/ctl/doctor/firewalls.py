"""Other programs' packet rules that stop what ours let through. Pure: facts.py reads them.

In: iptables-save, names of nftables' tables, their base chains; out: findings. A packet passes only where every base
chain of a hook lets it: what Docker, ufw or firewalld drop is dropped, whatever our rules say, and no policy of ours is
weakened where they accept, since ours are asked as well.
Source: nft(8) (CHAINS, VERDICT STATEMENTS); Docker's packet-filtering-firewalls; firewalld.zone(5).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping

from felixpy.ctl.doctor.finding import Finding, Level

OURS = "felixpy"
_POLICY = re.compile(r"^:(INPUT|FORWARD) DROP\b", re.MULTILINE)
_FILTER = re.compile(r"^\*filter$(.*?)^COMMIT$", re.MULTILINE | re.DOTALL)
_LETS_PODS = re.compile(r"^-A \S+ .*-[io] cali\+ .*-j ACCEPT$", re.MULTILINE)
_LETS_BGP = re.compile(r"^-A \S+ .*--dports? (?:\S*\b)?179\b.*-j ACCEPT$", re.MULTILINE)
_CHAIN = re.compile(r"^table (\S+ \S+) \{$|^\tchain (\S+) \{$|^\t\ttype \S+ hook (\S+) .*policy drop;", re.MULTILINE)
_ADVICE = "let them pass there as well, and what goes to Services: " + "; ".join(
    f"{{0}} -I FORWARD {what} -j ACCEPT" for what in ("-i cali+", "-o cali+", "-m conntrack --ctstate DNAT")
)
_NEEDED = "nodes need TCP 179 (BGP) and UDP 4789 or protocol 4 (tunnels) of each other, and pods what they ask of nodes"
_OF_IPTABLES = ("ip filter FORWARD", "ip6 filter FORWARD")
_FIREWALLD = (
    "put the pods into a zone that passes them: firewall-cmd --permanent --zone=trusted --add-interface=cali+"
    " (and --add-source of the nodes)"
)


def judge_firewalls(saved: Mapping[str, str], tables: Iterable[str], dropping: Iterable[str]) -> Iterator[Finding]:
    """What stops packets of pods, and what may stop those between nodes.

    `dropping` are the chains of others at the hook forward that drop what they do not accept, and know no pods.
    """
    for save, text in sorted(saved.items()):
        rules = "".join(_FILTER.findall(text))
        closed = set(_POLICY.findall(rules))
        program = save.removesuffix("-save")
        if "FORWARD" in closed and not _LETS_PODS.search(rules):
            words = f"{program} drops what nobody accepts in FORWARD (as Docker and ufw have it): pods' packets too"
            yield Finding(Level.ERROR, "firewall", words, _ADVICE.format(program))
        if "INPUT" in closed and not _LETS_BGP.search(rules):
            words = f"{program} drops what nobody accepts in INPUT"
            yield Finding(Level.WARNING, "firewall", words, _NEEDED)
    if "firewalld" in tables:
        words = "firewalld rejects what it is to forward between interfaces that are in no zone for it"
        yield Finding(Level.WARNING, "firewall", words, _FIREWALLD)
    for chain in dropping:
        words = f"the nftables chain {chain} drops what it does not accept: pods' packets too"
        yield Finding(Level.ERROR, "firewall", words, "have it accept iifname and oifname cali*, and ct status dnat")


def parse_dropping_chains(text: str) -> Iterator[str]:
    """Chains of others at the hook forward whose policy is drop, as `inet filter forward`, in `nft list chains`.

    Those of iptables are judged by iptables-save.
    """
    table = chain = ""
    for found in _CHAIN.finditer(text):
        if found[1]:
            table = found[1]
        elif found[2]:
            chain = found[2]
        elif found[3] == "forward" and table.split()[1] != OURS and f"{table} {chain}" not in _OF_IPTABLES:
            yield f"{table} {chain}"
