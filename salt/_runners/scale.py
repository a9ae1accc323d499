"""
How many machines a pool has, and how much memory a machine: tell, and change.

Each change is queued and carried out by the conductor, one at a time per pool; ``wait`` waits for its end.
"""

from saltern import scale_runs
from saltern.fleet import Fleet
from saltern.runners import plain_errors

__func_alias__ = {"in_": "in"}


def _fleet():
    return Fleet.load(__opts__["saltern_state_dir"])


@plain_errors
def status():
    """
    Tell every pool's machines and bounds, what was decided and why, what machines feel, and what is queued.

    CLI Example:

    .. code-block:: bash

        salt-run scale.status
    """
    return scale_runs.status(_fleet())


@plain_errors
def out(pool="prod", count=1, wait=0, cause="", by="salt-run"):
    """
    Make more machines for a pool.

    pool
        prod or canary

    count
        How many more

    wait
        Seconds to wait until they serve; 0 answers at once

    cause
        Journal id or event that led to this

    by
        Who wants it, for the journal

    CLI Example:

    .. code-block:: bash

        salt-run scale.out prod
        salt-run scale.out prod count=2 wait=120
    """
    return scale_runs.out(_fleet(), pool, count, wait=wait, cause=cause, by=by)


@plain_errors
def in_(pool="prod", count=1, force=False, wait=0, cause="", by="salt-run"):
    """
    Give up machines of a pool: the youngest, drained first.

    pool
        prod or canary

    count
        How many fewer

    force
        Go below the pool's ``min``; the last machine stays in any case

    wait
        Seconds to wait until they are gone; 0 answers at once

    cause
        Journal id or event that led to this

    by
        Who wants it, for the journal

    CLI Example:

    .. code-block:: bash

        salt-run scale.in prod
        salt-run scale.in prod force=True wait=120
    """
    return scale_runs.in_(_fleet(), pool, count, force=force, wait=wait, cause=cause, by=by)


@plain_errors
def up(machine, memory=None, wait=0, cause="", by="salt-run"):
    """
    Change a machine's memory while it runs.

    machine
        Its id

    memory
        MiB; doubled if not given

    wait
        Seconds to wait until it is done; 0 answers at once

    cause
        Journal id or event that led to this

    by
        Who wants it, for the journal

    CLI Example:

    .. code-block:: bash

        salt-run scale.up prod1
        salt-run scale.up prod1 memory=768 wait=30
    """
    return scale_runs.up(_fleet(), machine, memory, wait=wait, cause=cause, by=by)


@plain_errors
def request(tag, minion_id, payload):
    """
    Do what a machine asked for by a signed event, within the pool's bounds. A reactor calls it.

    CLI Example:

    .. code-block:: bash

        salt-run scale.request saltern/scale/prod1/out prod1 '{...signed payload...}'
    """
    return scale_runs.request(_fleet(), tag, minion_id, payload)


@plain_errors
def lost(gone, back=()):
    """
    Have machines looked at whose presence changed. A reactor calls it.

    gone
        Machines Salt does not see any more

    back
        Machines it sees again

    CLI Example:

    .. code-block:: bash

        salt-run scale.lost '[prod1]'
    """
    return scale_runs.lost(_fleet(), gone, back)
