"""
The fleet's Redis: who is primary, copies of its data, and back again.
"""

import logging

import salt.client
from saltern import redis_runs
from saltern.fleet import Fleet
from saltern.runners import plain_errors

log = logging.getLogger(__name__)

__virtualname__ = "redis"
SECONDS = 300


def __virtual__():
    return __virtualname__


def _fleet():
    return Fleet.load(__opts__["saltern_state_dir"])


def _call(machines, function, arguments, keywords):
    with salt.client.get_local_client(mopts=__opts__) as client:
        return client.cmd(
            list(machines), function, arguments, kwarg=keywords, tgt_type="list", timeout=SECONDS
        )


@plain_errors
def status():
    """
    Tell who is primary, how every Redis machine sees itself, and what each Sentinel says.

    CLI Example:

    .. code-block:: bash

        salt-run redis.status
    """
    return redis_runs.status(_fleet())


@plain_errors
def backup():
    """
    Copy all of Redis' data to this host, into ``backups`` of the fleet's state folder.

    CLI Example:

    .. code-block:: bash

        salt-run redis.backup
    """
    return redis_runs.backup(_fleet())


@plain_errors
def backups():
    """
    List the copies on this host.

    CLI Example:

    .. code-block:: bash

        salt-run redis.backups
    """
    return redis_runs.backups(_fleet())


@plain_errors
def restore(file):
    """
    Have Redis hold what a copy holds, and nothing else. What the primary had before is kept on its disk.

    file
        A name from ``redis.backups``, or the path of any other RDB file on this host

    CLI Example:

    .. code-block:: bash

        salt-run redis.restore redis-20260102T030405Z.rdb
    """
    return redis_runs.restore(_fleet(), file, _call, log.info)
