"""
The canary: its share of the traffic, whether it is on, whether it is good enough, and its way to production by steps.
"""

from saltern import canary_runs
from saltern.fleet import Fleet
from saltern.runners import plain_errors


def _fleet():
    return Fleet.load(__opts__["saltern_state_dir"])


@plain_errors
def status():
    """
    Tell the canary's share, wanted and in effect, why, whether it is latched off, and where its steps are.

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
def start(release="", cause="", by="salt-run"):
    """
    Take the release that the canary runs to all requests, by the steps in the pillar, each judged.

    The share falls to the first step at once. Turning the canary off aborts; setting a share by hand pauses.

    release
        The release; the one that the canary runs if left out

    cause
        Journal id of what led to this

    by
        Who wants it, for the journal

    CLI Example:

    .. code-block:: bash

        salt-run canary.start
    """
    return canary_runs.step(_fleet(), "start", release, cause=cause, by=by)


@plain_errors
def pause(reason="", cause="", by="salt-run"):
    """
    Stay at this step's share until somebody says ``canary.resume``. A broken limit still aborts.

    reason
        Why, on one line

    cause
        Journal id of what led to this

    by
        Who wants it, for the journal

    CLI Example:

    .. code-block:: bash

        salt-run canary.pause 'until the campaign is over'
    """
    return canary_runs.step(_fleet(), "pause", reason=reason, cause=cause, by=by)


@plain_errors
def resume(question=None, cause="", by="salt-run"):
    """
    Go on after a pause, with the step begun anew; at once, where only your agreement to the next share was missing.

    question
        Number of the question this answers, as ``canary.status`` shows it: a late answer to an earlier one is refused

    cause
        Journal id of what led to this

    by
        Who wants it, for the journal

    CLI Example:

    .. code-block:: bash

        salt-run canary.resume
    """
    return canary_runs.step(_fleet(), "resume", question=question, cause=cause, by=by)


@plain_errors
def promote(release="", cause="", by="salt-run"):
    """
    Call the release good without the steps that are left. The share stays until production runs it.

    release
        The release under way, to be sure; refused if it is another one

    cause
        Journal id of what led to this

    by
        Who wants it, for the journal

    CLI Example:

    .. code-block:: bash

        salt-run canary.promote
    """
    return canary_runs.step(_fleet(), "promote", release, cause=cause, by=by)


@plain_errors
def abort(reason="", release="", cause="", by="salt-run"):
    """
    Take the release out of traffic at once and for good: share 0, the canary off; only another release starts anew.

    reason
        Why, on one line

    release
        The release under way if left out; another one is kept from ever starting

    cause
        Journal id of what led to this

    by
        Who wants it, for the journal

    CLI Example:

    .. code-block:: bash

        salt-run canary.abort 'wrong prices'
    """
    return canary_runs.step(_fleet(), "abort", release, reason=reason, cause=cause, by=by)


@plain_errors
def judge(seconds=300, save="", share=None, **thresholds):
    """
    Compare the canary with production over the last seconds: pass, fail or hold, each metric and its numbers.

    seconds
        How far back to look

    save
        File to write both windows into; ``python -m saltern.judge FILE --set tolerance=1.2`` judges them
        again

    share
        Judge again what was compared at this step of the release, instead of the last seconds

    thresholds
        Any of ``canary:judge`` in the pillar, for this judgement alone

    CLI Example:

    .. code-block:: bash

        salt-run canary.judge
        salt-run canary.judge seconds=60 min_requests=200 save=/tmp/window.json
        salt-run canary.judge share=30 tolerance=1.3
    """
    named = {name: value for name, value in thresholds.items() if not name.startswith("__")}
    return canary_runs.judge(_fleet(), seconds, save=save, share=share, thresholds=named)
