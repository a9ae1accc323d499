"""
Salt-cloud driver of the local cloud: real Debian machines on this host, by systemd-nspawn.

:depends: saltern on the master's Python path; root; systemd-nspawn, iproute2, nftables

A provider names the fleet's state folder, and the sizes a profile may choose from:

.. code-block:: yaml

    local:
      driver: nspawn
      state_dir: /var/lib/saltern/saltern
      sizes:
        small: {memory: 512, cpus: 1}

A profile takes a size; ``memory`` (MiB) and ``cpus`` in it take precedence over the size's.

.. code-block:: yaml

    prod:
      provider: local
      size: small
"""

import logging
from pathlib import Path

import salt.config as config
import salt.utils.cloud
import salt.utils.yaml
from salt.exceptions import (
    SaltCloudConfigError,
    SaltCloudException,
    SaltCloudNotFound,
    SaltCloudSystemExit,
)

try:
    from saltern.errors import SalternError
    from saltern.fleet import MACHINE_ID, Fleet
    from saltern.local import image, machine
    from saltern.local.cgroup import Limits

    HAS_SALTERN = True
except ImportError:
    HAS_SALTERN = False

log = logging.getLogger(__name__)

__virtualname__ = "nspawn"
LOCATION = "this-host"


def __virtual__():
    if get_configured_provider() is False:
        return False
    if not HAS_SALTERN:
        return False, "the saltern package is not on Salt's Python path"
    return __virtualname__


def _get_active_provider_name():
    try:
        return __active_provider_name__.value()
    except AttributeError:
        return __active_provider_name__


def get_configured_provider():
    """
    Return the first configured instance.
    """
    return config.is_provider_configured(
        __opts__, _get_active_provider_name() or __virtualname__, ("state_dir",)
    )


def _fleet():
    try:
        return Fleet.load(get_configured_provider()["state_dir"])
    except SalternError as error:
        raise SaltCloudConfigError(str(error)) from error


def _need(call, wanted, name):
    if call != wanted:
        flag = {"action": "-a", "function": "-f"}[wanted]
        raise SaltCloudSystemExit(f"{name}: call it with {flag} or --{wanted}")


def _event(kind, name, **fields):
    """Fire the event of a machine's life that every salt-cloud driver fires."""
    __utils__["cloud.fire_event"](
        "event",
        {"creating": "starting create", "created": "created instance"}.get(kind, f"{kind} instance"),
        f"salt/cloud/{name}/{kind}",
        args={"name": name, **fields},
        sock_dir=__opts__["sock_dir"],
        transport=__opts__["transport"],
    )


def create(vm_):
    """
    Make and boot one machine whose minion's key the master has accepted already.

    CLI Example:

    .. code-block:: bash

        salt-cloud -p prod prod6
    """
    name, fleet = vm_["name"], _fleet()
    about = {"profile": vm_["profile"], "provider": vm_["driver"]}
    _event("creating", name, **about)
    try:
        limits = _limits(vm_)
        files = _minion_files(vm_)
        _event("requesting", name, **about, kwargs={"memory": limits.memory, "cpus": limits.cpus})
        made = machine.create(fleet, name, limits, vm_["profile"] or "", files)
    except (SalternError, SaltCloudConfigError) as error:
        # The key was accepted before the machine was asked for: nobody may come with it now.
        if name not in fleet.inventory() or not fleet.inventory()[name]["made"]:
            salt.utils.cloud.remove_key(__opts__["pki_dir"], name)
        raise SaltCloudException(str(error)) from error
    _event("created", name, **about, instance_id=name)
    return _node(name, machine.describe(fleet)[name] | {"address": made.address})


def _limits(vm_):
    sizes = avail_sizes()
    size = config.get_cloud_config_value("size", vm_, __opts__, default="small")
    if size not in sizes:
        raise SaltCloudConfigError(
            f"profile {vm_['profile']}: size {size!r} is none of {', '.join(sorted(sizes))}"
        )
    chosen = {
        each: config.get_cloud_config_value(each, vm_, __opts__, default=sizes[size][each])
        for each in ("memory", "cpus")
    }
    return Limits(**chosen)


def _minion_files(vm_):
    """What the minion needs on its disk before it boots: configuration, its own keys, the master's."""
    files = {}
    if vm_.get("pub_key"):
        minion = salt.utils.cloud.minion_config(__opts__, vm_)
        master = (Path(__opts__["pki_dir"]) / "master.pub").read_text(encoding="ascii")
        files = {
            "etc/salt/minion": (salt.utils.yaml.safe_dump(minion, default_flow_style=False), 0o640),
            "etc/salt/pki/minion/minion.pem": (vm_["priv_key"], 0o400),
            "etc/salt/pki/minion/minion.pub": (vm_["pub_key"], 0o644),
            "etc/salt/pki/minion/minion_master.pub": (master, 0o644),
        }
    return files


def destroy(name, call=None):
    """
    End a machine and remove all that was its own.

    CLI Example:

    .. code-block:: bash

        salt-cloud -d prod6
    """
    if call == "function":
        raise SaltCloudSystemExit("destroy: call it with -d, --destroy, -a or --action")
    _found(name)
    _event("destroying", name, instance_id=name)
    _do(machine.destroy, name)
    _event("destroyed", name, instance_id=name)
    if __opts__.get("update_cachedir", False) is True:
        __utils__["cloud.delete_minion_cachedir"](name, _get_active_provider_name().split(":")[0], __opts__)
    return {"Success": True}


def _do(function, name, *args, **kwargs):
    """Call the local cloud, its errors turned into salt-cloud's."""
    _found(name)
    try:
        return function(_fleet(), name, *args, **kwargs)
    except SalternError as error:
        raise SaltCloudSystemExit(str(error)) from error


def _found(name):
    """Raise unless there is such a machine, be it half-made."""
    fleet = _fleet()
    if not MACHINE_ID.match(name) or not machine.folder(fleet, name).exists():
        raise SaltCloudNotFound(f"{name}: no such machine in fleet {fleet.name}")


def start(name, call=None):
    """
    Boot a stopped machine.

    CLI Example:

    .. code-block:: bash

        salt-cloud -a start prod6
    """
    _need(call, "action", "start")
    _do(machine.start, name)
    return {"Success": True}


def stop(name, call=None):
    """
    Shut a machine down through its own init.

    CLI Example:

    .. code-block:: bash

        salt-cloud -a stop prod6
    """
    _need(call, "action", "stop")
    _do(machine.stop, name)
    return {"Success": True}


def reboot(name, call=None):
    """
    Shut a machine down and boot it again.

    CLI Example:

    .. code-block:: bash

        salt-cloud -a reboot prod6
    """
    _need(call, "action", "reboot")
    _do(machine.stop, name)
    _do(machine.start, name)
    return {"Success": True}


def resize(name, kwargs=None, call=None):
    """
    Change a machine's limits while it runs.

    memory
        MiB

    cpus
        processors, fractions allowed

    CLI Example:

    .. code-block:: bash

        salt-cloud -a resize prod6 memory=768 cpus=1.5
    """
    _need(call, "action", "resize")
    wanted = {}
    for key, value in (kwargs or {}).items():
        if key not in ("memory", "cpus"):
            raise SaltCloudSystemExit(f"resize: {key}: no such limit; say memory=MIB, cpus=NUMBER or both")
        try:
            number = float(value)
        except (TypeError, ValueError) as error:
            raise SaltCloudSystemExit(f"resize: {key}={value!r} is not a number") from error
        if isinstance(value, bool) or (key == "memory" and not number.is_integer()):
            raise SaltCloudSystemExit(
                f"resize: {key}={value!r} is not a {'whole ' * (key == 'memory')}number"
            )
        wanted[key] = int(number) if key == "memory" else number
    if not wanted:
        raise SaltCloudSystemExit("resize: say memory=MIB, cpus=NUMBER or both")
    changed = _do(machine.resize, name, **wanted)
    return {"memory": changed.limits.memory, "cpus": changed.limits.cpus}


def show_instance(name, call=None):
    """
    Show all there is to know about one machine.

    CLI Example:

    .. code-block:: bash

        salt-cloud -a show_instance prod6
    """
    _need(call, "action", "show_instance")
    nodes = list_nodes_full()
    if name not in nodes:
        raise SaltCloudNotFound(f"{name}: no such machine in fleet {_fleet().name}")
    __utils__["cloud.cache_node"](nodes[name], _get_active_provider_name(), __opts__)
    return nodes[name]


def _node(name, about):
    return {
        "id": name,
        "image": about["image"],
        "size": f"{about['memory']} MiB, {about['cpus']:g} CPU",
        "state": about["state"],
        "private_ips": [about["address"]],
        "public_ips": [],
    }


def list_nodes(call=None):
    """
    List the machines with the fields every driver gives.

    CLI Example:

    .. code-block:: bash

        salt-cloud -Q
    """
    return {name: _node(name, about) for name, about in machine.describe(_fleet()).items() if about["made"]}


def list_nodes_full(call=None):
    """
    List the machines with all that is known about them.

    CLI Example:

    .. code-block:: bash

        salt-cloud -F
    """
    return {
        name: {**about, "name": name, **_node(name, about)}
        for name, about in machine.describe(_fleet()).items()
        if about["made"]
    }


def list_nodes_select(call=None):
    """
    List the machines with the fields that ``query.selection`` names.

    CLI Example:

    .. code-block:: bash

        salt-cloud -S
    """
    return salt.utils.cloud.list_nodes_select(list_nodes_full("function"), __opts__["query.selection"], call)


def avail_images(call=None):
    """
    List the images: the one of this host's release, if it is built.

    CLI Example:

    .. code-block:: bash

        salt-cloud --list-images local
    """
    _not_action(call, "avail_images", "--list-images")
    return {
        folder.parent.name: {"name": folder.parent.name, "current": folder.parent.name == image.key()}
        for folder in sorted(image.images().glob("*/image.json"))
    }


def avail_sizes(call=None):
    """
    List the sizes the provider's configuration defines: memory in MiB, processors.

    CLI Example:

    .. code-block:: bash

        salt-cloud --list-sizes local
    """
    _not_action(call, "avail_sizes", "--list-sizes")
    sizes = get_configured_provider().get("sizes", {})
    return {name: {"name": name, **values} for name, values in sizes.items()}


def avail_locations(call=None):
    """
    List the locations: this host.

    CLI Example:

    .. code-block:: bash

        salt-cloud --list-locations local
    """
    _not_action(call, "avail_locations", "--list-locations")
    return {LOCATION: {"name": LOCATION}}


def _not_action(call, name, flag):
    if call == "action":
        raise SaltCloudSystemExit(f"{name}: call it with -f, --function or {flag}")
