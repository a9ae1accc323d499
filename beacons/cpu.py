"""
Feel a machine's processor use: events ``salt/beacon/<id>/cpu/high`` and ``ok``, signed.

Figures are the container's own where the machine is one, per cent of what its limit allows. Use by the services in
``ignore`` does not count. With ``waiting`` the time counts too in which services of a container waited for a processor
that its limit allows and the host did not give. ``cpu/blind`` says, once, that the figures cannot be read.

.. code-block:: yaml

    beacons:
      cpu:
        - high: 50       # per cent
        - low: 40        # per cent
        - for: 2         # samples, one a second, at or above high
        - clear: 5       # samples below low
        - refresh: 30    # seconds, while it is high
        - calm: 60       # seconds, while it is not
        - ignore: [salt-minion]
        - waiting: false
        - roles:
            ops: {high: 90, low: 80}
            prod: {waiting: true}
"""

import time

import salt.loader

__virtualname__ = "cpu"

_memory = {}
_parts = {}


def __virtual__():
    return __virtualname__


def validate(config):
    """
    Validate the beacon configuration
    """
    try:
        _part("pressure.settings")(config, __opts__["id"])
    except ValueError as error:
        return False, f"beacon cpu: {error}"
    if "key" not in __pillar__.get("machine", {}):
        return False, "beacon cpu: pillar has no machine:key to sign events with"
    return True, "Valid beacon configuration"


def beacon(config):
    """
    Take a sample; say what there is to say.
    """
    machine = __opts__["id"]
    wanted = _part("pressure.settings")(config, machine)

    def measure():
        used, cpus = _part("usage.cpu")()
        services = _part("usage.services_cpu")()
        waited = _part("waiting.seconds")(wanted["ignore"]) if wanted["waiting"] else {}
        after = {"at": time.monotonic(), "used": used, "cpus": cpus, "services": services, "waited": waited}
        before, _memory["before"] = _memory.get("before"), after
        seen = before and _part("usage.cpu_percent")(before, after, wanted["ignore"])
        if not seen:
            return None
        waiting = _part("waiting.percent")(before, after)
        return {
            "percent": round(min(100.0, seen["percent"] + waiting), 1),
            "waiting": round(waiting, 1),
            "cpus": cpus,
            "services": _part("usage.largest")(seen["services"]),
        }

    key, folder = __pillar__["machine"]["key"], __opts__["cachedir"]
    return _part("feeling.tick")("cpu", machine, key, folder, wanted, _memory, measure, _parts, time.time())


def _part(name):
    # Salt packs no __utils__ into beacons.
    if not _parts:
        loaded = salt.loader.utils(__opts__)
        needed = ("pressure.settings", "pressure.restored", "pressure.step", "usage.cpu", "usage.services_cpu",
                  "usage.cpu_percent", "usage.largest", "waiting.seconds", "waiting.percent", "signing.sign",
                  "feeling.tick")  # fmt: skip
        _parts.update({each: loaded[each] for each in needed})
    return _parts[name]
