"""
The diary of the fleet: what happened, who did it, and what led to it.
"""

from saltern import journal
from saltern.fleet import Fleet
from saltern.members import link
from saltern.runners import plain_errors


def _client():
    return link(Fleet.load(__opts__["saltern_state_dir"]))


@plain_errors
def tail(count=20, kind="", subject="", who="", follow=False):
    """
    Show the last lines of the journal, oldest first: when, what, who, and the line or event that led to it.

    count
        How many, 1 to 1000

    kind
        Of one kind alone, ``canary.off``, or of all that begin so, ``canary``

    subject
        About one thing alone: a machine, a pool, ``canary``

    who
        By one actor alone

    follow
        Go on showing new ones, until interrupted

    CLI Example:

    .. code-block:: bash

        salt-run journal.tail
        salt-run journal.tail 50 kind=instance subject=prod3
        salt-run journal.tail kind=canary follow=True
    """
    return journal.shown(_client(), count, kind, subject, who, follow=print if follow else None)


@plain_errors
def why(question):
    """
    Tell the chain of causes that led to something, with the time each step took, and what came of it.

    question
        Id of a line of the journal, or words: ``canary off``, ``instance.want prod3``, ``prod6 exists``,
        ``prod6 gone``; of several lines that answer the newest is meant

    CLI Example:

    .. code-block:: bash

        salt-run journal.why 'canary off'
        salt-run journal.why 'prod6 exists'
        salt-run journal.why 1763697600123-0
    """
    return journal.why(_client(), str(question))
