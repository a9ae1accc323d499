"""
Membership in the fleet's registry: an instance says what it runs, the master writes it down.

A machine may read the registry but not write it. It signs what it wants to say, sends it as an event, and waits until
the registry shows it; its address is the one that the master knows, never one it claims.
"""

import logging
import re
import time

try:
    import redis

    HAS_REDIS = True
except ImportError:
    HAS_REDIS = False

log = logging.getLogger(__name__)

RELEASE = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")

__virtualname__ = "registry"


def __virtual__():
    if not HAS_REDIS:
        return False, "the redis package is not installed in Salt's environment"
    return __virtualname__


def present(name, port, release, timeout=60):
    """
    Make sure the registry lists this machine with this release.

    name
        The instance: the machine's own minion id

    port
        TCP port it serves on

    release
        The release it runs

    timeout
        Seconds to wait until the registry shows it; the event is sent again every five seconds meanwhile

    .. code-block:: yaml

        instance in the registry:
          registry.present:
            - name: prod1
            - port: 8080
            - release: r0123456789ab
    """
    ret = {"name": name, "result": True, "changes": {}, "comment": ""}
    wanted = {"port": str(port), "release": str(release)}
    if not wanted["port"].isdecimal() or not 1 <= int(port) <= 65535:
        ret.update(result=False, comment=f"registry: port {port!r} is not between 1 and 65535")
        return ret
    if not RELEASE.fullmatch(wanted["release"]):
        ret.update(
            result=False, comment=f"registry: release {release!r} is not a release id, such as r0123456789ab"
        )
        return ret
    end = time.monotonic() + timeout
    first = None
    try:
        client = _client()
    except KeyError as error:
        ret.update(
            result=False,
            comment=f"registry: pillar has no {error}; the machine's id gives it no role in a pool",
        )
        return ret
    sent = 0.0
    problem = "it does not show the instance"
    while True:
        try:
            shown = client.hgetall(f"saltern:instance:{name}")
            found = {key: shown.get(key) for key in wanted}
            if first is None:
                first = found
            if found == wanted:
                break
            problem = f"it shows {found}"
            if __opts__["test"]:
                ret.update(
                    result=None, comment=f"{name} would be registered", changes=_changes(first, wanted)
                )
                return ret
            if time.monotonic() - sent > 5:
                _announce(name, wanted)
                sent = time.monotonic()
        except redis.RedisError as error:
            problem = f"Redis does not answer ({error})"
            # Whoever was asked may be primary no more: the next look asks anew who is.
            client.connection_pool.disconnect()
        if time.monotonic() > end:
            ret.update(
                result=False,
                comment=f"registry: {problem}, {timeout} s after {name} asked for {wanted}; see the master's log",
            )
            return ret
        time.sleep(0.1)
    if first != wanted:
        ret["changes"] = _changes(first, wanted)
    ret["comment"] = f"{name} is registered with release {release} on port {port}"
    return ret


def _changes(old, new):
    return {key: {"old": old[key], "new": new[key]} for key in new if old[key] != new[key]}


def _announce(name, wanted):
    tag = f"saltern/instance/{name}/present"
    key = __pillar__["machine"]["key"]
    __salt__["event.send"](tag, __utils__["signing.sign"](key, name, tag, wanted))


def _client():
    # The pillar says how this machine's users reach Redis, in the shape that saltern.redis_link documents.
    link = __pillar__["links"]["observer"]
    options = {"decode_responses": True, "socket_timeout": 2, "socket_connect_timeout": 2}
    if "tls" in link["redis"]:
        options |= {"ssl": True, "ssl_ca_data": link["redis"]["tls"]["ca"], "ssl_check_hostname": True}
    login = {"username": link["redis"]["username"], "password": link["redis"]["password"]}
    if "sentinel" not in link:
        host, port = link["redis"]["addresses"][0].rsplit(":", 1)
        return redis.Redis(host=host, port=int(port), **login, **options)
    watch = link["sentinel"]
    at = [(host, int(port)) for host, port in (text.rsplit(":", 1) for text in watch["addresses"])]
    asked = {**options, "username": watch["username"], "password": watch["password"]}
    return redis.Sentinel(at, sentinel_kwargs=asked).master_for(watch["service"], **login, **options)
