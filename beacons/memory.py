"""
Feel a machine's memory use: events ``salt/beacon/<id>/memory/high`` and ``ok``, signed.

Figures are the container's own where the machine is one, per cent of its limit, without file cache that can be
dropped. ``memory/blind`` says, once, that the figures cannot be read.

.. code-block:: yaml

    beacons:
      memory:
        - high: 50       # per cent
        - low: 45        # per cent
        - for: 2         # samples, one a second, at or above high
        - clear: 5       # samples below low
        - refresh: 30    # seconds, while it is high
        - calm: 60       # seconds, while it is not
        - roles:
            redis: {high: 80, low: 70}
"""

import time

import salt.loader

__virtualname__ = "memory"

_memory = {}
_parts = {}


def __virtual__():
    return __virtualname__


def validate(config):
    """
    Validate the beacon configuration
    """
    try:
        wanted = _part("pressure.settings")(config, __opts__["id"])
    except ValueError as error:
        return False, f"beacon memory: {error}"
    if wanted["ignore"]:
        return False, "beacon memory: ignore: memory is used up whoever uses it; leave it out"
    if "key" not in __pillar__.get("machine", {}):
        return False, "beacon memory: pillar has no machine:key to sign events with"
    return True, "Valid beacon configuration"


def beacon(config):
    """
    Take a sample; say what there is to say.
    """
    machine = __opts__["id"]
    wanted = _part("pressure.settings")(config, machine)

    def measure():
        used, limit = _part("usage.memory")()
        percent = round(min(100.0, 100 * used / limit), 1)
        sample = {
            "percent": percent,
            "used_mib": round(used, 1),
            "limit_mib": round(limit, 1),
            "services": {},
        }
        # Walking through the services' processes is not free: only where it may be told.
        if percent >= wanted["low"]:
            sample["services"] = _part("usage.largest")(_part("usage.services_memory")())
        return sample

    key, folder = __pillar__["machine"]["key"], __opts__["cachedir"]
    return _part("feeling.tick")(
        "memory", machine, key, folder, wanted, _memory, measure, _parts, time.time()
    )


def _part(name):
    # Salt packs no __utils__ into beacons.
    if not _parts:
        loaded = salt.loader.utils(__opts__)
        needed = ("pressure.settings", "pressure.restored", "pressure.step", "usage.memory",
                  "usage.services_memory", "usage.largest", "signing.sign", "feeling.tick")  # fmt: skip
        _parts.update({each: loaded[each] for each in needed})
    return _parts[name]
