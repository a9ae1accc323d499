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
