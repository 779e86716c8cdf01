"""`felixctl leave`: ends what outlives a stopped node on purpose, and with --kernel clears the kernel of it."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

import click

from felixpy.ctl.cells import count_words, list_some
from felixpy.ctl.connect import EXIT_FAILED, print_error
from felixpy.ctl.local import ask_processes, run_dir_option
from felixpy.status.answers import ControlRequest

PROGRAMS = {"gobgpd": "gobgp.sock", "the responder of layer 2": "l2.sock"}
"""What an agent leaves running, by the socket that it listens on."""
END_S = 10.0
ROUNDS = 3
"""The kernel lets go of what others of ours used only once these are gone."""


@click.command()
@click.option("--kernel", is_flag=True, help="Also remove our rules, routes and tunnels, once there are no pods.")
@run_dir_option
def command(run_dir: Path, kernel: bool) -> None:
    """Take this machine out of service, after its agent was stopped for good.

    BGP sessions, answers for Service addresses, packet rules and routes outlive an agent, so that it may restart. This
    ends them: neighbours are told to forget what this node announced, and another node answers at once.
    """
    if alive := ask_processes(run_dir, ControlRequest("status")):
        print_error(f"error: felixpy still runs here ({list_some(sorted(alive))} in {run_dir}): stop it first")
        sys.exit(EXIT_FAILED)
    failed = [name for name, socket in PROGRAMS.items() for pid in _find(run_dir / socket) if not _end(name, pid)]
    _end_etcd(run_dir)
    if kernel and not _clear():
        failed.append("the kernel")
    if failed:
        sys.exit(EXIT_FAILED)


def _find(socket_path: Path) -> tuple[int, ...]:
    """Who listens there, and who did before somebody removed the file."""
    from birdpy.process import find_strays, listener_pid

    pid = listener_pid(socket_path)
    return (*((pid,) if pid else ()), *find_strays(socket_path))


def _end(name: str, pid: int) -> bool:
    """Whether it does not run now. On SIGTERM gobgpd withdraws everything, and the responder makes way."""
    from birdpy.process import wait_for_exit

    try:
        os.kill(pid, signal.SIGTERM)
        asyncio.run(asyncio.wait_for(wait_for_exit(pid), END_S))
    except ProcessLookupError:
        return True
    except (PermissionError, TimeoutError) as error:
        print_error(f"error: {name} {pid} does not end: {str(error) or f'not within {END_S:g} s'}")
        return False
    click.echo(f"{name} {pid} ended")
    return True


def _end_etcd(run_dir: Path) -> None:
    from felixpy.datastore.local import LocalEtcd

    local = LocalEtcd(run_dir)
    if pid := local.pid:
        asyncio.run(local.stop())
        click.echo(f"etcd {pid} ended; its data stays")


def _clear() -> bool:
    """Whether nothing of ours is left in the kernel; rules stay for as long as they guard somebody."""
    from felixpy.cni.plan import INTERFACE_PREFIX
    from felixpy.dataplane.objects import ROUTE_PROTOCOL_LEARNED, ROUTE_PROTOCOL_WORKLOAD
    from felixpy.drivers.netfilter import remove_all
    from felixpy.drivers.netlink.pods.link import list_pod_links
    from felixpy.drivers.netlink.rtnetlink import RouteDriver
    from felixpy.reconcile import Reconciler

    try:
        if pods := list_pod_links(INTERFACE_PREFIX):
            words = count_words(len(pods), "pod")
            print_error(f"error: {words} on {list_some(sorted(pods))}: end them first, since our rules guard them")
            return False
        for what in remove_all():
            click.echo(f"the rules in {what} removed")
        with RouteDriver(protocols=(ROUTE_PROTOCOL_WORKLOAD, ROUTE_PROTOCOL_LEARNED)) as driver:
            nothing = Reconciler(driver, lambda sets: {})
            for _ in range(ROUNDS):
                nothing.distrust()
                report = nothing.apply()
                if report.applied > len(report.failed):
                    click.echo(f"{count_words(report.applied - len(report.failed), 'other object')} removed")
                if not report.failed:
                    return True
    except OSError as error:
        print_error(f"error: the kernel: {error}")
        return False
    for outcome in report.failed:
        print_error(f"error: {outcome.error}")
    return False
