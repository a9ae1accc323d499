"""
Tell how builds stand: events ``salt/beacon/<id>/build/queued``, ``passed``, ``failed`` and ``cancelled``, signed.

The build machine's worker leaves in a folder what the master shall hear, and takes it away once the master has written
it down. Until then it is said again. A machine without the folder says nothing.

.. code-block:: yaml

    beacons:
      build:
        - outbox: /var/lib/saltern-pipeline/outbox
        - again: 10      # seconds
"""

import json
import logging
import time
from pathlib import Path

import salt.loader

log = logging.getLogger(__name__)

__virtualname__ = "build"

LARGEST = 16384
RESULTS = ("passed", "failed", "cancelled", "queued")

_said = {}
_parts = {}


def __virtual__():
    return __virtualname__


def _settings(config):
    return {key: value for each in config for key, value in each.items()}


def validate(config):
    """
    Validate the beacon configuration
    """
    if not isinstance(config, list) or not all(isinstance(each, dict) for each in config):
        return (
            False,
            "beacon build: not a list of settings, such as [{outbox: /var/lib/saltern-pipeline/outbox}]",
        )
    wanted = _settings(config)
    if not str(wanted.get("outbox", "")).startswith("/"):
        return False, "beacon build: outbox is not an absolute path"
    if not isinstance(wanted.get("again"), int) or wanted["again"] < 1:
        return False, "beacon build: again is not a whole number of seconds from 1"
    if "key" not in __pillar__.get("machine", {}):
        return False, "beacon build: pillar has no machine:key to sign events with"
    return True, "Valid beacon configuration"


def beacon(config):
    """
    Say what is new in the outbox, or was not confirmed for a while; one thing at a time, so that order is kept.
    """
    wanted = _settings(config)
    folder = Path(wanted["outbox"])
    if not folder.is_dir():
        return []
    now, machine, found = time.monotonic(), __opts__["id"], []
    for path in folder.glob("[0-9]*.json"):
        try:
            about = path.lstat()
            version = (about.st_mtime_ns, about.st_ino)
            before, at = _said.get(path.name, (None, 0.0))
            if (version == before and now - at < wanted["again"]) or about.st_size > LARGEST:
                continue
            values = json.loads(path.read_text())
            result = values["result"]
            if result in RESULTS:
                found.append((RESULTS.index(result) == 3, about.st_mtime_ns, path.name, version, values))
        except FileNotFoundError:
            continue  # confirmed while we looked
        except (OSError, ValueError, TypeError, KeyError) as error:
            log.warning("beacon build: %s: not usable (%s)", path, error)
    there = {path.name for path in folder.glob("*.json")}
    for name in set(_said) - there:
        del _said[name]
    if not found:
        return []
    # What ended before what was only asked for; then the oldest.
    _, _, name, version, values = min(found, key=lambda each: each[:3])
    _said[name] = (version, now)
    tag = f"salt/beacon/{machine}/build/{values['result']}"
    return [{"tag": values["result"], **_sign()(__pillar__["machine"]["key"], machine, tag, values)}]


def _sign():
    # Salt packs no __utils__ into beacons.
    if not _parts:
        _parts["sign"] = salt.loader.utils(__opts__)["signing.sign"]
    return _parts["sign"]
