"""
Releases, and any other change, rolled over machines one after the other: start, follow, stop, go back.

The conductor does it, one roll at a time for each pool; ``wait`` waits for its end.
"""

import sys

from saltern import rollout_runs
from saltern.fleet import Fleet
from saltern.runners import plain_errors


def _fleet():
    return Fleet.load(__opts__["saltern_state_dir"])


def _say(line):
    # Beside the answer, which may be for a program to read.
    print(line, file=sys.stderr, flush=True)


def _options(given):
    # Salt adds names of its own to a runner's keywords.
    return {name: value for name, value in given.items() if not name.startswith("__")}


@plain_errors
def start(
    release=None,
    target="prod",
    state=None,
    role="all",
    wait=0,
    test=False,
    reason="",
    cause="",
    by="salt-run",
    **options,
):
    """
    Roll a release over a pool, or a state over roles, machine by machine.

    release
        A release that is kept (``rollout.status`` lists them); the one that staging runs if not given

    target
        prod, or canary

    state
        A state instead, such as common or proxy

    role
        The roles that get it, with commas between, or all: redis (replicas first), ops, staging, prod, proxy

    wait
        Seconds to wait for the end, telling how it goes; 0 answers at once

    test
        Tell what would be done, and do nothing

    reason, cause, by
        Why, the journal id or event that led to this, and who wants it: for the journal

    options
        batch, max_unavailable, order, on_failure, min_healthy_s, steady_s, deadline_s, highstate, gates, over what
        ``pillar/rollout.sls`` says; ``force=True`` in spite of a freeze

    CLI Example:

    .. code-block:: bash

        salt-run rollout.start
        salt-run rollout.start r6a4e5fac531f wait=300
        salt-run rollout.start state=common role=redis,ops
        salt-run rollout.start test=True batch=40% max_unavailable=2
    """
    return rollout_runs.start(
        _fleet(), release, target=target, state=state, role=role, wait=wait, test=test, reason=reason, cause=cause,
        by=by, options=_options(options), say=_say,
    )  # fmt: skip


@plain_errors
def plan(release=None, target="prod", state=None, role="all", **options):
    """
    Tell what ``rollout.start`` would do.

    CLI Example:

    .. code-block:: bash

        salt-run rollout.plan state=common
    """
    return rollout_runs.start(
        _fleet(),
        release,
        target=target,
        state=state,
        role=role,
        test=True,
        options=_options(options),
        by="salt-run",
    )


@plain_errors
def status(follow=False):
    """
    Tell how far the last rolls are, and which releases there are.

    follow
        Go on telling until nothing is under way

    CLI Example:

    .. code-block:: bash

        salt-run rollout.status
        salt-run rollout.status follow=True
    """
    return rollout_runs.status(_fleet(), follow=_say if follow else None)


@plain_errors
def abort(reason="", cause="", by="salt-run"):
    """
    Stop what is rolled now; it goes back as after a failure.

    reason, cause, by
        For the journal

    CLI Example:

    .. code-block:: bash

        salt-run rollout.abort 'wrong prices'
    """
    return rollout_runs.abort(_fleet(), reason=reason, cause=cause, by=by)


@plain_errors
def rollback(release=None, target="prod", wait=0, reason="", cause="", by="salt-run"):
    """
    Go back to a release that is kept, fast: it is on the machines' disks. No freeze and no gate holds it up.

    release
        Which; the one that the pool ran before if not given

    target
        prod, or canary

    wait
        Seconds to wait for the end, telling how it goes; 0 answers at once

    reason, cause, by
        For the journal

    CLI Example:

    .. code-block:: bash

        salt-run rollout.rollback
        salt-run rollout.rollback r6a4e5fac531f wait=60
    """
    return rollout_runs.rollback(
        _fleet(), release, target=target, wait=wait, reason=reason, cause=cause, by=by, say=_say
    )
