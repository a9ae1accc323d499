"""
Take samples of what one service uses of its machine: events ``salt/beacon/<id>/samples/taken``, signed.

Each carries the processor use and memory of a service over the last seconds, in per cent of the machine's limits, for
the judge of the canary. A machine without the service says nothing. No reactor hears them; the master keeps them for as
long as a canary can be judged on them.

.. code-block:: yaml

    beacons:
      samples:
        - service: product   # systemd service
        - batch: 10          # samples, one a second, in one event
"""

import time

import salt.loader

__virtualname__ = "samples"

_memory = {}
_parts = {}


def __virtual__():
    return __virtualname__


def validate(config):
    """
    Validate the beacon configuration
    """
    try:
        _part("sampling.settings")(config)
    except ValueError as error:
        return False, f"beacon samples: {error}"
    if "key" not in __pillar__.get("machine", {}):
        return False, "beacon samples: pillar has no machine:key to sign events with"
    return True, "Valid beacon configuration"


def beacon(config):
    """
    Take a sample; tell the batch when it is full.
    """
    wanted = _part("sampling.settings")(config)
    batch = _part("sampling.add")(_memory, _look(wanted["service"]), wanted["batch"])
    if batch is None:
        return []
    machine = __opts__["id"]
    tag = f"salt/beacon/{machine}/samples/taken"
    return [{"tag": "taken", **_part("signing.sign")(__pillar__["machine"]["key"], machine, tag, batch)}]


def _look(service):
    try:
        seen = _part("usage.service")(service)
        if seen is None:
            return None
        cpus, limit = _part("usage.cpu")()[1], _part("usage.memory")()[1]
    except (OSError, ValueError):
        # The beacons cpu and memory read the same files, and say `blind`.
        return None
    return {"at": time.monotonic(), "cpus": cpus, "limit": limit, "used": seen[0], "mib": seen[1]}


def _part(name):
    # Salt packs no __utils__ into beacons.
    if not _parts:
        loaded = salt.loader.utils(__opts__)
        needed = (
            "sampling.settings",
            "sampling.add",
            "usage.service",
            "usage.cpu",
            "usage.memory",
            "signing.sign",
        )
        _parts.update({each: loaded[each] for each in needed})
    return _parts[name]
