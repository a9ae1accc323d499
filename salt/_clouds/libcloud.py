"""
Salt-cloud driver of rented machines through apache-libcloud: DigitalOcean, Amazon EC2, Azure, OpenStack, Linode,
Vultr, Google Compute Engine.

:depends: saltern on the master's Python path; apache-libcloud

A provider says which cloud, whose machines, and what its sizes are called there. A secret is named by the environment
variable that holds it; the variable may stand under ``clouds`` in the fleet's ``secrets.json`` instead.

.. code-block:: yaml

    digitalocean:
      driver: libcloud
      libcloud_provider: digitalocean
      state_dir: /var/lib/saltern/saltern
      secrets: {key: DIGITALOCEAN_TOKEN}
      location: fra1
      image: debian-12-x64
      sizes:
        small: {id: s-1vcpu-1gb, memory: 1024, cpus: 1}

A profile takes a size; ``image``, ``location`` and ``options`` in it take precedence over the provider's.

.. code-block:: yaml

    prod:
      provider: digitalocean
      size: small

``host``, ``port`` and ``secure``, or ``api_root``, point a provider at another place than the cloud's own.
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
    from saltern.clouds import dialects, settings, userdata
    from saltern.clouds.cloud import Cloud, NameTaken, Wanted
    from saltern.errors import SalternError
    from saltern.fleet import REPOSITORY, home
    from saltern.local.image import WHEELHOUSE

    HAS_SALTERN = True
except ImportError:
    HAS_SALTERN = False

log = logging.getLogger(__name__)

__virtualname__ = "libcloud"


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
        __opts__, _get_active_provider_name() or __virtualname__, ("libcloud_provider", "state_dir")
    )


def _cloud():
    given = get_configured_provider()
    alias = _get_active_provider_name().split(":")[0]
    try:
        spoken = dialects.of(given["libcloud_provider"])
        return Cloud(settings.read(alias, given, spoken.secrets, spoken.options), spoken)
    except SalternError as error:
        raise SaltCloudConfigError(str(error)) from error


def _need(call, wanted, name):
    if call != wanted:
        flag = {"action": "-a", "function": "-f"}[wanted]
        raise SaltCloudSystemExit(f"{name}: call it with {flag} or --{wanted}")


def _not_action(call, name, flag):
    if call == "action":
        raise SaltCloudSystemExit(f"{name}: call it with -f, --function or {flag}")


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


def _do(function, name, *args):
    """Call the cloud, its errors turned into salt-cloud's."""
    try:
        return function(name, *args)
    except SalternError as error:
        raise SaltCloudSystemExit(str(error)) from error


def _found(cloud, name):
    """Raise unless there is such a machine, be it half-made."""
    try:
        there = cloud.exists(name)
    except SalternError as error:
        raise SaltCloudNotFound(str(error)) from error
    if not there:
        raise SaltCloudNotFound(f"{name}: no such machine in fleet {cloud.fleet.name}")


def create(vm_):
    """
    Make one machine whose minion's key the master has accepted already.

    CLI Example:

    .. code-block:: bash

        salt-cloud -p prod prod6
    """
    name = vm_["name"]
    about = {"profile": vm_["profile"], "provider": vm_["driver"]}
    _event("creating", name, **about)
    try:
        cloud = _cloud()
        wanted = _wanted(cloud, vm_)

        def told(order):
            asked = {"size": order.size.id, "image": order.image, "location": order.location}
            _event("requesting", name, **about, kwargs=asked)

        node = cloud.create(wanted, told)
    except NameTaken as error:
        raise SaltCloudException(str(error)) from error
    except (SalternError, SaltCloudConfigError) as error:
        # The key was accepted before the machine was asked for: nobody may come with it now.
        salt.utils.cloud.remove_key(__opts__["pki_dir"], name)
        raise SaltCloudException(str(error)) from error
    _event("created", name, **about, instance_id=node.id)
    return _node(node)


def _wanted(cloud, vm_):
    def chosen(key, default):
        return config.get_cloud_config_value(key, vm_, __opts__, default=default, search_global=False)

    try:
        size = cloud.settings.size(chosen("size", "small"))
    except SalternError as error:
        raise SaltCloudConfigError(f"profile {vm_['profile']}: {error}") from error
    return Wanted(
        name=vm_["name"],
        size=size,
        image=str(chosen("image", cloud.settings.image)),
        location=str(chosen("location", cloud.settings.location)),
        user_data=_user_data(vm_, cloud.settings.index_url),
        profile=vm_["profile"] or "",
        options=cloud.settings.options_with(chosen("options", {})),
    )


def _user_data(vm_, index_url):
    """What makes the machine a minion: its configuration, its own keys, the master's."""
    if not vm_.get("pub_key"):
        return ""  # deploy: False
    told = salt.utils.cloud.minion_config(__opts__, vm_)
    if not told["master"]:
        raise SaltCloudConfigError(
            f"provider {_get_active_provider_name().split(':')[0]}: minion: master is empty; "
            "write the address there that rented machines reach the master at"
        )
    minion = userdata.Minion(
        name=vm_["name"],
        config=salt.utils.yaml.safe_dump(told, default_flow_style=False),
        private_key=vm_["priv_key"],
        public_key=vm_["pub_key"],
        master_key=(Path(__opts__["pki_dir"]) / "master.pub").read_text(encoding="ascii"),
    )
    lock = (REPOSITORY / "requirements" / "machine.txt").read_text(encoding="utf-8")
    held = userdata.held_wheels(home() / WHEELHOUSE)
    return userdata.write(minion, userdata.pruned(lock, held), index_url=index_url)


def destroy(name, call=None):
    """
    End a machine and remove all that was its own.

    CLI Example:

    .. code-block:: bash

        salt-cloud -d prod6
    """
    if call == "function":
        raise SaltCloudSystemExit("destroy: call it with -d, --destroy, -a or --action")
    cloud = _cloud()
    _found(cloud, name)
    _event("destroying", name, instance_id=name)
    _do(cloud.destroy, name)
    _event("destroyed", name, instance_id=name)
    if __opts__.get("update_cachedir", False) is True:
        __utils__["cloud.delete_minion_cachedir"](name, _get_active_provider_name().split(":")[0], __opts__)
    return {"Success": True}


def start(name, call=None):
    """
    Start a stopped machine and wait until it runs.

    CLI Example:

    .. code-block:: bash

        salt-cloud -a start prod6
    """
    _need(call, "action", "start")
    return _change(name, "start")


def stop(name, call=None):
    """
    Shut a machine down through its own init and wait until it is off.

    CLI Example:

    .. code-block:: bash

        salt-cloud -a stop prod6
    """
    _need(call, "action", "stop")
    return _change(name, "stop")


def reboot(name, call=None):
    """
    Have a machine shut down and start again.

    CLI Example:

    .. code-block:: bash

        salt-cloud -a reboot prod6
    """
    _need(call, "action", "reboot")
    return _change(name, "reboot")


def _change(name, what, *args):
    cloud = _cloud()
    _found(cloud, name)
    _do(getattr(cloud, what), name, *args)
    return {"Success": True}


def resize(name, kwargs=None, call=None):
    """
    Give a machine another size: it is stopped, changed and started.

    memory
        MiB; one of the provider's sizes must have exactly this

    size
        the name of one of the provider's sizes, instead

    CLI Example:

    .. code-block:: bash

        salt-cloud -a resize prod6 memory=2048
    """
    _need(call, "action", "resize")
    cloud = _cloud()
    _found(cloud, name)
    try:
        size = cloud.settings.size_asked(kwargs or {})
    except SalternError as error:
        raise SaltCloudSystemExit(str(error)) from error
    _do(cloud.resize, name, size)
    return {"memory": size.memory, "cpus": size.cpus}


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
        raise SaltCloudNotFound(f"{name}: no such machine in fleet {_cloud().fleet.name}")
    __utils__["cloud.cache_node"](nodes[name], _get_active_provider_name(), __opts__)
    return nodes[name]


def sweep(kwargs=None, call=None):
    """
    Remove what was begun and never finished: what a command left that was killed, or that the cloud stopped answering.

    CLI Example:

    .. code-block:: bash

        salt-cloud -f sweep digitalocean
    """
    _not_action(call, "sweep", "")
    try:
        return {"removed": _cloud().sweep()}
    except SalternError as error:
        raise SaltCloudSystemExit(str(error)) from error


def _node(node):
    return {
        "id": node.id,
        "image": node.image,
        "size": node.size,
        "state": node.state,
        "private_ips": list(node.private_ips),
        "public_ips": list(node.public_ips),
    }


def _nodes():
    try:
        return _cloud().made()
    except SalternError as error:
        raise SaltCloudSystemExit(str(error)) from error


def list_nodes(call=None):
    """
    List the machines with the fields every driver gives.

    CLI Example:

    .. code-block:: bash

        salt-cloud -Q
    """
    _not_action(call, "list_nodes", "-Q")
    return {name: _node(node) for name, node in _nodes().items()}


def list_nodes_full(call=None):
    """
    List the machines with all that is known about them.

    CLI Example:

    .. code-block:: bash

        salt-cloud -F
    """
    _not_action(call, "list_nodes_full", "-F")
    return {
        name: {**_node(node), "name": name, "address": node.address, "labels": dict(node.labels)}
        for name, node in _nodes().items()
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
    List the images that machines can be made of.

    CLI Example:

    .. code-block:: bash

        salt-cloud --list-images digitalocean
    """
    _not_action(call, "avail_images", "--list-images")
    return _choice("images")


def avail_sizes(call=None):
    """
    List the cloud's own sizes, memory in MiB; a profile takes one of those the provider's configuration names.

    CLI Example:

    .. code-block:: bash

        salt-cloud --list-sizes digitalocean
    """
    _not_action(call, "avail_sizes", "--list-sizes")
    return _choice("sizes")


def avail_locations(call=None):
    """
    List where machines can be made.

    CLI Example:

    .. code-block:: bash

        salt-cloud --list-locations digitalocean
    """
    _not_action(call, "avail_locations", "--list-locations")
    return _choice("locations")


def _choice(what):
    try:
        return getattr(_cloud(), what)()
    except SalternError as error:
        raise SaltCloudSystemExit(str(error)) from error
