"""
Feature flags: what they are, changing them, who changed them and why, and taking it back.

Every change is checked whole, made only if nobody else came first, and seen by every process within milliseconds.
"""

from saltern import flag_runs
from saltern.fleet import Fleet
from saltern.runners import plain_errors

__func_alias__ = {"list_": "list", "set_": "set"}


def _fleet():
    return Fleet.load(__opts__["saltern_state_dir"])


@plain_errors
def list_():
    """
    List every flag: state, default variant, variants, and whether targeting decides.

    CLI Example:

    .. code-block:: bash

        salt-run flags.list
        salt-run flags.list --out=json
    """
    return flag_runs.listed(_fleet())


@plain_errors
def get(key):
    """
    Tell a flag's whole definition.

    CLI Example:

    .. code-block:: bash

        salt-run flags.get new_layout
    """
    return flag_runs.get(_fleet(), key)


@plain_errors
def set_(key, variant=None, value=None, percent=None, definition=None, why="", cause="", by="salt-run"):
    """
    Change a flag: choose a variant, or give a value, or roll it out to a share of the visitors, or define it.

    key
        The flag

    variant
        Name of the variant that is the default from now on

    value
        A value of its own, kept as the variant ``custom``

    percent
        Per cent of the visitors for whom a boolean flag is true; replaces its targeting

    definition
        The whole flag, in flagd's format; a flag that is not there yet is made

    why
        The reason, for the history

    cause
        Journal id of what led to this

    by
        Who wants it, for the history

    CLI Example:

    .. code-block:: bash

        salt-run flags.set font_color blue why='the sea is'
        salt-run flags.set site_title value='Summer list'
        salt-run flags.set new_layout percent=25
        salt-run flags.set beta definition='{"state": "ENABLED", "variants": {"a": 1, "b": 2}, "defaultVariant": "a"}'
    """
    return flag_runs.change(
        _fleet(), key, variant=variant, value=value, percent=percent, definition=definition, why=why, cause=cause, by=by
    )  # fmt: skip


@plain_errors
def enable(key, why="", cause="", by="salt-run"):
    """
    Let a flag decide again.

    CLI Example:

    .. code-block:: bash

        salt-run flags.enable show_picture
    """
    return flag_runs.switch(_fleet(), key, True, why=why, cause=cause, by=by)


@plain_errors
def disable(key, why="", cause="", by="salt-run"):
    """
    Take a flag out of force: what the code says without it holds. To switch a feature off, set its variant.

    CLI Example:

    .. code-block:: bash

        salt-run flags.disable show_picture why='too slow'
    """
    return flag_runs.switch(_fleet(), key, False, why=why, cause=cause, by=by)


@plain_errors
def history(limit=10):
    """
    List the latest changes, newest first: revision, who, why, when, and which flags.

    CLI Example:

    .. code-block:: bash

        salt-run flags.history
        salt-run flags.history 50 --out=json
    """
    return flag_runs.history(_fleet(), limit)


@plain_errors
def undo(revision=None, unrecorded=False, why="", cause="", by="salt-run"):
    """
    Take back the newest change; that can itself be undone.

    revision
        Take back this change and every one after it; ``flags.history`` lists them

    unrecorded
        Take back what was written past the history, by ``redis-cli`` for example, good or not

    CLI Example:

    .. code-block:: bash

        salt-run flags.undo
        salt-run flags.undo revision=41 why='all of this morning'
        salt-run flags.undo unrecorded=True
    """
    return flag_runs.undo(_fleet(), revision, unrecorded=unrecorded, why=why, cause=cause, by=by)
