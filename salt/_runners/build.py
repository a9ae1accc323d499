"""
What was pushed: its builds, their logs, and how they ended. Reactors hand on what the build machine says.
"""

from saltern import build_runs, delivery
from saltern.fleet import Fleet
from saltern.runners import plain_errors

__func_alias__ = {"list_": "list"}


def _fleet():
    return Fleet.load(__opts__["saltern_state_dir"])


@plain_errors
def deliver(tag, minion_id, payload):
    """
    Take what ops1 signed of a build; what passed on a mapped branch is fetched and rolled out. A reactor calls it.

    CLI Example:

    .. code-block:: bash

        salt-run build.deliver salt/beacon/ops1/build/passed ops1 '{...signed payload...}'
    """
    return delivery.deliver(_fleet(), tag, minion_id, payload)


@plain_errors
def list_(branch="", state="", limit=20):
    """
    List the last builds, newest first.

    branch
        Only those of this branch or tag

    state
        Only those that are queued, running, passed, failed or cancelled

    limit
        At most so many

    CLI Example:

    .. code-block:: bash

        salt-run build.list
        salt-run build.list branch=staging state=failed limit=5
    """
    return build_runs.list_(_fleet(), branch, state, limit)


@plain_errors
def show(id_):
    """
    Tell all of one build: its stages, its tests, its artifact.

    id_
        As build.list has it

    CLI Example:

    .. code-block:: bash

        salt-run build.show 20261121-071523-ab12cd3
    """
    return build_runs.show(_fleet(), id_)


@plain_errors
def log(id_):
    """
    Print what a build said.

    id_
        As build.list has it

    CLI Example:

    .. code-block:: bash

        salt-run build.log 20261121-071523-ab12cd3
    """
    return build_runs.log(_fleet(), id_)


@plain_errors
def cancel(id_):
    """
    End a build that is queued or running.

    id_
        As build.list has it

    CLI Example:

    .. code-block:: bash

        salt-run build.cancel 20261121-071523-ab12cd3
    """
    return build_runs.cancel(_fleet(), id_)
