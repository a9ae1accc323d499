"""
The canary: its share of the traffic, whether it is on, and whether it is good enough.
"""

from saltern import canary_runs
from saltern.fleet import Fleet
from saltern.runners import plain_errors


def _fleet():
    return Fleet.load(__opts__["saltern_state_dir"])


@plain_errors
def status():
    """
    Tell the canary's share, wanted and in effect, why, and whether it is latched off.

    CLI Example:

    .. code-block:: bash

        salt-run canary.status
    """
    return canary_runs.status(_fleet())


@plain_errors
def share(percent, cause="", by="salt-run"):
    """
    Set the canary's share of the requests.

    percent
        0 to 100; a canary that is off gets nothing, whatever its share

    cause
        Journal id of what led to this

    by
        Who wants it, for the journal

    CLI Example:

    .. code-block:: bash

        salt-run canary.share 10
    """
    return canary_runs.share(_fleet(), percent, cause=cause, by=by)


@plain_errors
def off(reason="turned off by hand", cause="", by="salt-run"):
    """
    Turn the canary off, until somebody or a new release turns it on.

    Works without Redis too, by the proxy's admin API.

    reason
        Why, on one line

    cause
        Journal id of what led to this

    by
        Who wants it, for the journal

    CLI Example:

    .. code-block:: bash

        salt-run canary.off 'checkout is slow'
    """
    return canary_runs.off(_fleet(), reason, cause=cause, by=by)


@plain_errors
def on(reason="", cause="", by="salt-run"):
    """
    Allow the canary requests again; they follow when it is found healthy.

    reason
        Why, on one line

    cause
        Journal id of what led to this

    by
        Who wants it, for the journal

    CLI Example:

    .. code-block:: bash

        salt-run canary.on
    """
    return canary_runs.on(_fleet(), reason, cause=cause, by=by)


@plain_errors
def judge(seconds=300, save="", **thresholds):
    """
    Compare the canary with production over the last seconds: pass, fail or hold, each metric and its numbers.

    seconds
        How far back to look

    save
        File to write both windows into; ``python -m saltern.judge FILE --set tolerance=1.2`` judges them
        again

    thresholds
        Any of ``canary:judge`` in the pillar, for this judgement alone

    CLI Example:

    .. code-block:: bash

        salt-run canary.judge
        salt-run canary.judge seconds=60 min_requests=200 save=/tmp/window.json
    """
    named = {name: value for name, value in thresholds.items() if not name.startswith("__")}
    return canary_runs.judge(_fleet(), seconds, save=save, thresholds=named)
