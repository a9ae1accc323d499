"""
The fleet's traffic at one glance.
"""

from saltern import canary_runs
from saltern.fleet import Fleet
from saltern.runners import plain_errors


@plain_errors
def status():
    """
    Tell of every instance its pool, release, what is wanted of it, and what HAProxy sees; and of the canary.

    CLI Example:

    .. code-block:: bash

        salt-run fleet.status
        salt-run fleet.status --out=json
    """
    return canary_runs.fleet_status(Fleet.load(__opts__["saltern_state_dir"]))
