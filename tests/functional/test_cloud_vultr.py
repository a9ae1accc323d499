"""What only Vultr does: machines in a VPC, that only grow, and that cannot be destroyed as soon as they are made."""

from __future__ import annotations

import pytest
from cloud_stand import VULTR, make_cloud, wanted
from fake_vultr import Vultr
from saltern.errors import SalternError


@pytest.mark.parametrize(("options", "vpc"), [({}, True), ({"vpc": "vpc-of-ours"}, ["vpc-of-ours"])])
def test_a_machine_is_in_the_regions_vpc_or_in_the_one_that_is_named(bare, options, vpc):
    with Vultr().serving() as fake:
        cloud = make_cloud({**VULTR, "options": options}, bare, fake.port)
        node = cloud.create(wanted(cloud))
        assert next(iter(fake.machines.values()))["vpc"] == vpc
    assert (node.address, node.private_ips, node.public_ips) == (
        "10.25.0.2",
        ("10.25.0.2",),
        ("203.0.113.2",),
    )


def test_a_machine_that_was_off_is_off_again_after_its_size_was_changed(bare):
    with Vultr().serving() as fake:
        cloud = make_cloud(VULTR, bare, fake.port)
        cloud.create(wanted(cloud))
        cloud.stop("prod6")
        cloud.resize("prod6", cloud.settings.size("medium"))
        assert (cloud.find("prod6").size, cloud.find("prod6").state) == ("vc2-1c-2gb", "stopped")


def test_a_machine_cannot_become_smaller_and_runs_on_as_it_was(bare):
    with Vultr().serving() as fake:
        cloud = make_cloud(VULTR, bare, fake.port)
        cloud.create(wanted(cloud))
        cloud.resize("prod6", cloud.settings.size("medium"))
        with pytest.raises(SalternError, match="Unable to upgrade: plan is smaller"):
            cloud.resize("prod6", cloud.settings.size("small"))
        assert (cloud.find("prod6").size, cloud.find("prod6").state) == ("vc2-1c-2gb", "running")


def test_a_machine_that_is_too_young_to_be_destroyed_is_waited_for(bare):
    with Vultr(young=3).serving() as fake:
        cloud = make_cloud(VULTR, bare, fake.port)
        cloud.create(wanted(cloud))
        cloud.destroy("prod6")
        assert fake.names() == []
        assert fake.requests["destroy"] == 4


def test_all_pages_of_machines_are_listed(bare):
    with Vultr(page=2, looks=1).serving() as fake:
        cloud = make_cloud(VULTR, bare, fake.port)
        for number in range(1, 6):
            cloud.create(wanted(cloud, f"prod{number}"))
        assert len(cloud.nodes()) == 5


def test_a_snapshot_is_named_by_its_id(bare):
    with Vultr().serving() as fake:
        cloud = make_cloud(VULTR, bare, fake.port)
        with pytest.raises(SalternError, match="Invalid snapshot_id"):
            cloud.create(wanted(cloud, image="5359435d-of-mine"))
        assert fake.names() == []
