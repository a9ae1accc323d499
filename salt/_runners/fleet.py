"""
The fleet's traffic at one glance, and one instance taken out of it and put back without a lost request.
"""

from saltern import fleet_runs
from saltern.fleet import Fleet
from saltern.runners import plain_errors


def _fleet():
    return Fleet.load(__opts__["saltern_state_dir"])


@plain_errors
def status():
    """
    Tell of every instance its pool, release, what is wanted of it, and what HAProxy sees; and of the canary.

    CLI Example:

    .. code-block:: bash

        salt-run fleet.status
        salt-run fleet.status --out=json
    """
    return fleet_runs.status(_fleet())


@plain_errors
def drain(machine, limit=None, force=False, wait=0, cause="", by="salt-run"):
    """
    Give an instance no new requests and let it end those it has; it is then idle.

    machine
        Which, for example prod3

    limit
        Seconds after which requests still open are cut; the pillar's ``traffic:drain:limit_s`` when left out.
        WebSockets count

    force
        Take it out even if it is the last live production server

    wait
        Seconds to wait until it is idle; the answer then tells which requests were cut. 0 answers at once

    cause
        Journal id of what led to this

    by
        Who wants it, for the journal

    CLI Example:

    .. code-block:: bash

        salt-run fleet.drain prod3 limit=30 wait=40
    """
    return fleet_runs.want(
        _fleet(), machine, "drain", limit_s=limit, force=force, wait=wait, cause=cause, by=by
    )


@plain_errors
def maint(machine, limit=None, force=False, wait=0, cause="", by="salt-run"):
    """
    Drain an instance, then stop checking its health: it may be stopped, changed and started again.

    The arguments are those of ``fleet.drain``.

    CLI Example:

    .. code-block:: bash

        salt-run fleet.maint prod3 wait=90
    """
    return fleet_runs.want(
        _fleet(), machine, "maint", limit_s=limit, force=force, wait=wait, cause=cause, by=by
    )


@plain_errors
def ready(machine, wait=0, cause="", by="salt-run"):
    """
    Give an instance requests again, once HAProxy finds it healthy.

    machine
        Which, for example prod3

    wait
        Seconds to wait until it is served; 0 answers at once

    cause
        Journal id of what led to this

    by
        Who wants it, for the journal

    CLI Example:

    .. code-block:: bash

        salt-run fleet.ready prod3 wait=10
    """
    return fleet_runs.want(_fleet(), machine, "ready", wait=wait, cause=cause, by=by)
