"""
Alerts: what is wrong now, and silencing its mail.
"""

from saltern import reflexes
from saltern.fleet import Fleet
from saltern.runners import plain_errors

__func_alias__ = {"list_": "list"}


def _fleet():
    return Fleet.load(__opts__["saltern_state_dir"])


@plain_errors
def list_():
    """
    List what fires, and what was over a while ago, each with value, limit, since when, and what the fleet did.

    CLI Example:

    .. code-block:: bash

        salt-run alert.list
        salt-run alert.list --out=json
    """
    return reflexes.listed(_fleet())


@plain_errors
def silence(name, machine="*", hours=2, comment="", by="salt-run"):
    """
    Mail nothing about an alert for a while. It stays in the list, and reflexes go on.

    name
        The alert, such as CpuHigh; ``*`` is every alert of the machine

    machine
        The machine it is about; ``*`` is every machine

    hours
        How long

    comment
        Why, for whoever finds the silence

    by
        Who wants it

    CLI Example:

    .. code-block:: bash

        salt-run alert.silence CpuHigh staging1 hours=2
        salt-run alert.silence '*' prod3 hours=0.5 comment='new disk'
    """
    return reflexes.silence(_fleet(), name, machine, hours, by=by, comment=comment)


@plain_errors
def unsilence(silence_id):
    """
    End a silence before its time.

    CLI Example:

    .. code-block:: bash

        salt-run alert.unsilence 5b0c7d2e-3b0f-4b43-9b7e-6b6e3a6f5a11
    """
    return reflexes.unsilence(_fleet(), silence_id)


@plain_errors
def feel(tag, minion_id, payload):
    """
    Begin, continue or end the alert that a machine's pressure is, as it signed it. A reactor calls it.

    CLI Example:

    .. code-block:: bash

        salt-run alert.feel salt/beacon/prod1/memory/high prod1 '{...signed payload...}'
    """
    return reflexes.feel(_fleet(), tag, minion_id, payload)


@plain_errors
def gone(minion_id):
    """
    End the alerts of a machine that is no more. A reactor calls it; by hand it repairs a missed event.

    CLI Example:

    .. code-block:: bash

        salt-run alert.gone prod6
    """
    return reflexes.gone(_fleet(), minion_id)
