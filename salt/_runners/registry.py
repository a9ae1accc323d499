"""
Who serves traffic: write instances into the registry, and strike them off.
"""

from saltern import members
from saltern.fleet import Fleet
from saltern.runners import plain_errors


def _fleet():
    return Fleet.load(__opts__["saltern_state_dir"])


@plain_errors
def register(tag, minion_id, payload):
    """
    Write down what a machine signed: that it runs a release. A reactor calls it.

    CLI Example:

    .. code-block:: bash

        salt-run registry.register saltern/instance/prod1/present prod1 '{...signed payload...}'
    """
    return members.register(_fleet(), tag, minion_id, payload)


@plain_errors
def unregister(minion_id):
    """
    Strike off an instance whose machine is no more. A reactor calls it; by hand it repairs a missed event.

    CLI Example:

    .. code-block:: bash

        salt-run registry.unregister prod6
    """
    return members.unregister(_fleet(), minion_id)
