"""Every cloud that can be spoken to, by libcloud's name of it."""

from __future__ import annotations

from collections.abc import Mapping

from saltern.clouds import azure, digitalocean, ec2, gce, linode, openstack, vultr
from saltern.clouds.dialect import Dialect
from saltern.errors import SalternError

DIALECTS: Mapping[str, Dialect] = {
    "digitalocean": digitalocean.DIALECT,
    "ec2": ec2.DIALECT,
    "azure_arm": azure.DIALECT,
    "openstack": openstack.DIALECT,
    "linode": linode.DIALECT,
    "vultr": vultr.DIALECT,
    "gce": gce.DIALECT,
}


def of(provider: object) -> Dialect:
    """The dialect of a cloud.

    :raises SalternError: none is known
    """
    if provider not in DIALECTS:
        raise SalternError(f"libcloud_provider {provider!r}: not one of {', '.join(DIALECTS)}")
    return DIALECTS[str(provider)]
