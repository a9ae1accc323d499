"""
Reflexes: what the fleet does at once, by itself. Reactors call these.
"""

from saltern import reflexes
from saltern.fleet import Fleet
from saltern.runners import plain_errors


@plain_errors
def canary_off(tag, minion_id, payload):
    """
    Turn the canary off, if what a machine signed is reason enough: staging or the proxy under pressure.

    ``salt-run canary.off`` does it by hand.

    CLI Example:

    .. code-block:: bash

        salt-run reflex.canary_off salt/beacon/staging1/cpu/high staging1 '{...signed payload...}'
    """
    return reflexes.canary_off(Fleet.load(__opts__["saltern_state_dir"]), tag, minion_id, payload)
