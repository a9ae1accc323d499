"""What only Linode does: labels that are an account's, machines of a region with user data, disks that stay small."""

from __future__ import annotations

import pytest
from cloud_fakes import CUT_LATE, LATE
from cloud_stand import LINODE, make_cloud, wanted
from fake_linode import Linode
from saltern.clouds import ledger
from saltern.errors import SalternError


@pytest.mark.parametrize("wrong", [LATE, CUT_LATE])
def test_a_request_without_an_answer_is_made_again_and_finds_what_the_first_one_made(bare, wrong):
    def plan(subject: str, kind: str, number: int) -> str | None:
        return wrong if kind == "create" and number == 1 else None

    with Linode(plan=plan).serving() as fake:
        cloud = make_cloud(LINODE, bare, fake.port)
        node = cloud.create(wanted(cloud))
        assert fake.requests["create"] == 2
        assert [str(number) for number in fake.machines] == [node.id]
    assert node.labels["saltern-order"] == ledger.entry(bare, "prod6").token


def test_two_fleets_of_one_account_may_have_machines_of_the_same_name(make_fleet):
    ours, theirs = make_fleet(machines={}, name="ours"), make_fleet(machines={}, name="theirs")
    with Linode().serving() as fake:
        first, second = (make_cloud(LINODE, fleet, fake.port) for fleet in (ours, theirs))
        first.create(wanted(first))
        second.create(wanted(second))
        assert sorted(each["label"] for each in fake.machines.values()) == ["ours-prod6", "theirs-prod6"]
        assert (list(first.made()), list(second.made())) == (["prod6"], ["prod6"])
        first.destroy("prod6")
        assert [each["label"] for each in fake.machines.values()] == ["theirs-prod6"]


def test_a_label_that_somebody_else_has_is_left_alone(bare):
    with Linode().serving() as fake:
        cloud = make_cloud(LINODE, bare, fake.port)
        cloud.create(wanted(cloud))
        (theirs,) = fake.machines.values()
        theirs["tags"] = []
        ledger.forget(bare, "prod6")
        with pytest.raises(SalternError, match="label: Label must be unique among your linodes") as said:
            cloud.create(wanted(cloud))
        assert "\n" not in str(said.value)
        assert list(fake.machines.values()) == [theirs]
    assert ledger.entries(bare) == []


def test_a_region_without_the_metadata_service_is_refused_in_linodes_words(bare):
    with Linode().serving() as fake:
        cloud = make_cloud(LINODE, bare, fake.port)
        with pytest.raises(SalternError, match="region: Metadata is not available in the selected region"):
            cloud.create(wanted(cloud, location="us-old", user_data="#cloud-config\n{}\n"))
        assert fake.names() == []


def test_memory_that_was_doubled_can_be_given_back_because_the_disk_stays_as_it_was(bare):
    with Linode().serving() as fake:
        cloud = make_cloud(LINODE, bare, fake.port)
        cloud.create(wanted(cloud))
        for size in ("medium", "small"):
            cloud.resize("prod6", cloud.settings.size(size))
            assert cloud.find("prod6").size == LINODE["sizes"][size]["id"]
        assert cloud.find("prod6").state == "running"


def test_five_hundred_and_more_machines_are_all_listed(bare):
    with Linode(looks=1).serving() as fake:
        cloud = make_cloud(LINODE, bare, fake.port)
        cloud.create(wanted(cloud))
        first = next(iter(fake.machines.values()))
        for number in range(2, 702):
            fake.machines[number] = {**first, "id": number, "label": f"test-prod{number}"}
        assert len(cloud.nodes()) == 701


def test_a_machine_that_linode_has_barred_is_neither_started_nor_taken_for_running(bare):
    with Linode().serving() as fake:
        cloud = make_cloud(LINODE, bare, fake.port)
        cloud.create(wanted(cloud))
        next(iter(fake.machines.values()))["status"] = "billing_suspension"
        assert cloud.find("prod6").state == "unknown"
