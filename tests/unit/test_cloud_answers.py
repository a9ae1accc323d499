"""What clouds say in the body of an error, and what it means for whoever asked."""

from __future__ import annotations

import pytest
from libcloud.common.exceptions import BaseHTTPError, exception_from_message
from libcloud.common.types import InvalidCredsError
from saltern.clouds import faults
from saltern.clouds.answer import words
from saltern.clouds.faults import BUSY, GONE, LIMIT, LOST, QUOTA, REFUSED, TOKEN

BODIES = [
    ({"badRequest": {"code": 400, "message": "Flavor f could not be found."}}, "Flavor f could not be found."),
    ({"error": {"code": 401, "title": "Unauthorized", "message": "Log in."}}, "Log in."),
    ({"errors": [{"field": "type", "reason": "is unknown"}]}, "type: is unknown"),
    ({"errors": [{"reason": "Linode busy."}, {"reason": "Later."}]}, "Linode busy.; Later."),
    ({"error": "Invalid plan", "status": 400}, "Invalid plan"),
    ({"error": "invalid_grant", "error_description": "Invalid JWT."}, "invalid_grant: Invalid JWT."),
    ({"error": {"message": "was not found", "errors": [{"reason": "notFound"}]}}, "was not found"),
    ("a text", "a text"),
    ({}, ""),
    ([], ""),
    (7, ""),
    (None, ""),
]  # fmt: skip


@pytest.mark.parametrize(("said", "found"), BODIES)
def test_the_words_are_found_in_every_clouds_form(said, found):
    assert words(said) == found


MEANINGS = [
    # status, words, kind
    (401, "Invalid Token", TOKEN),
    (401, "The request you have made requires authentication.", TOKEN),
    (403, "Policy doesn't allow os_compute_api:servers:create to be performed.", TOKEN),
    (400, "invalid_grant: Invalid JWT Signature.", TOKEN),
    (429, "Too many requests", LIMIT),
    (413, "This request was rate-limited.", LIMIT),
    (403, "rateLimitExceeded: Quota exceeded for quota metric 'Queries'", LIMIT),
    (403, "Quota exceeded for instances: Requested 1, but already used 10 of 10 instances", QUOTA),
    (413, "Quota exceeded for cores: Requested 4, but already used 20 of 20 cores", QUOTA),
    (403, "Maximum number of ports exceeded", QUOTA),
    (400, "Account Limit reached. Please open a support ticket.", QUOTA),
    (400, "Server add failed: You have reached the maximum number of active virtual machines for this account.", QUOTA),
    (403, "quotaExceeded: Quota 'CPUS' exceeded. Limit: 24.0 in region europe-west3.", QUOTA),
    (403, "QUOTA_EXCEEDED: Quota 'CPUS' exceeded. Limit: 24.0 in region europe-west3.", QUOTA),
    (503, "ZONE_RESOURCE_POOL_EXHAUSTED: The zone does not have enough resources available.", QUOTA),
    (409, "Cannot 'os-stop' instance 5e4f while it is in task_state powering-on", BUSY),
    (400, "Linode busy.", BUSY),
    (400, "This server is currently locked", BUSY),
    (400, "Unable to destroy server: Servers cannot be destroyed within 5 minutes of being created", BUSY),
    (400, "resourceNotReady: The resource 'instances/x' is not ready", BUSY),
    (409, "Cannot 'os-start' instance 5e4f while it is in vm_state active", REFUSED),
    (409, "Multiple possible networks found, use a Network ID to be more specific.", REFUSED),
    (409, "alreadyExists: The resource 'instances/x' already exists", REFUSED),
    (400, "label: Label must be unique among your linodes", REFUSED),
    (404, "Not found", GONE),
    (500, "Unexpected API Error.", LOST),
    (503, "backendError: Internal error", LOST),
    (408, "Please try again", LOST),
]  # fmt: skip


@pytest.mark.parametrize(("status", "said", "kind"), MEANINGS)
def test_an_error_means_what_its_status_and_its_words_say_together(status, said, kind):
    fault = faults.read(BaseHTTPError(status, said))
    assert (fault.kind, fault.words) == (kind, said)


def test_how_long_to_wait_is_taken_from_the_answer_be_it_seconds_or_a_date():
    for after, seconds in (("17", 17.0), ("Thu, 01 Jan 1970 00:00:00 GMT", 0.0)):
        error = exception_from_message(503, "Service Unavailable", {"retry-after": after})
        assert faults.read(error).after == seconds


def test_what_keystone_says_nothing_of_is_a_wrong_credential():
    assert faults.read(InvalidCredsError()).kind == TOKEN
