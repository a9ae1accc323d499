"""
Try an event dry: which reactors match, what they render to, who decides what and why, and what would change.
"""

import fnmatch

import salt.utils.reactor
from saltern import rehearsal
from saltern.fleet import Fleet
from saltern.runners import plain_errors


@plain_errors
def event(tag, data=None):
    """
    Tell what an event would bring about, were it to come now. Nothing happens.

    The reactors are those of the master's own configuration, rendered as the master renders them. Ours only hand values
    on; a template of your own that runs commands while it is rendered runs them here too.

    tag
        The event's tag

    data
        Its values. What a machine says is signed as that machine would, so values alone will do

    CLI Example:

    .. code-block:: bash

        salt-run rehearse.event salt/beacon/staging1/cpu/high data='{"percent": 93, "high": 50}'
        salt-run rehearse.event saltern/scale/prod1/out
        salt-run rehearse.event salt/cloud/prod3/destroyed --out=json
    """
    fleet = Fleet.load(__opts__["saltern_state_dir"])
    return rehearsal.rehearse(fleet, tag, {} if data is None else data, _react)


@plain_errors
def policy(metric, high, role="", lines=5000):
    """
    Tell what of all that the journal holds would not have happened with another mark: alerts, canary off, scale-outs.

    metric
        cpu or memory

    high
        The mark, per cent; pillar/beacons.sls has the one that counts

    role
        For the machines of one role alone; empty is all

    lines
        How many of the journal's last lines are looked through, 1 to 20000

    CLI Example:

    .. code-block:: bash

        salt-run rehearse.policy cpu high=70
        salt-run rehearse.policy memory high=80 role=prod --out=json
    """
    fleet = Fleet.load(__opts__["saltern_state_dir"])
    return rehearsal.policy(fleet, metric, high, role, lines)


def _react(tag, data):
    reactor = salt.utils.reactor.Reactor(__opts__)
    found = []
    for entry in reactor.list_all():
        for pattern, files in entry.items():
            if fnmatch.fnmatch(tag, pattern):
                for file in [files] if isinstance(files, str) else files:
                    renders = reactor.render_reaction(file, tag, data)
                    for body in renders.values():
                        body.pop("__sls__", None)
                    found.append({"pattern": pattern, "file": file, "renders": renders})
    return found
