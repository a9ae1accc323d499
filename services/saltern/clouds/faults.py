"""What an error of a cloud means: whether to ask again, whether it may have been obeyed all the same, what to say."""

from __future__ import annotations

import re
from dataclasses import dataclass

from libcloud.common.exceptions import BaseHTTPError
from libcloud.common.types import InvalidCredsError, LibcloudError, MalformedResponseError

from saltern.errors import SalternError

TOKEN, LIMIT, QUOTA, BUSY, LOST, GONE, REFUSED = "token", "limit", "quota", "busy", "lost", "gone", "refused"
"""The kinds of fault. token: the credentials are wrong. limit: too many requests. quota: too many machines. busy: the
machine is being changed already. lost: no answer that says what happened; it may have been obeyed. gone: there is no
such thing. refused: a request that will never be granted as it is."""

LONGEST_WORDS = 300

# What clouds say in the text of an error whose status alone does not tell. In the order they are looked for.
# DigitalOcean answers 422 to a droplet limit and to a droplet that is at work; EC2 says everything with 400 or 503 and
# a code of its own; Azure says [Code] before the text; Nova answers 403 to quotas, 409 to what has to wait;
# Linode and Vultr 400 to both; Google's reason is put before its text.
PHRASES = (
    (TOKEN, r"UnauthorizedOperation|AuthFailure|InvalidClientTokenId|SignatureDoesNotMatch|ExpiredToken"
            r"|AuthorizationFailed|InvalidAuthenticationToken|invalid_client|invalid_grant"),
    (LIMIT, r"RequestLimitExceeded|TooManyRequests|Throttling|was rate-limited|[rR]ateLimitExceeded"),
    (QUOTA, r"InstanceLimitExceeded|VcpuLimitExceeded|InsufficientInstanceCapacity|QuotaExceeded|AllocationFailed"
            r"|exceed your (droplet|Droplet) limit|exceeding .* quota|[Qq]uota exceeded|quota limit"
            r"|Maximum number of [\w ]+ exceeded|Account Limit reached|have reached the maximum"
            r"|quotaExceeded|QUOTA_EXCEEDED|RESOURCE_POOL_EXHAUSTED"),
    (BUSY, r"pending event|IncorrectInstanceState|OperationNotAllowed.*in progress|AnotherOperationInProgress"
           r"|NicReservedForAnotherVm|NicInUse|RetryableError|while it is in task_state|Linode busy"
           r"|is currently locked|cannot be destroyed within|resourceNotReady|resourceInUse"),
    (GONE, r"InvalidInstanceID\.NotFound"),
)  # fmt: skip


@dataclass(frozen=True)
class Fault:
    """What came back.

    :ivar kind: one of the kinds above
    :ivar words: the cloud's own, on one line
    :ivar after: seconds it asks us to wait
    """

    kind: str
    words: str
    after: float = 0.0


class CloudError(SalternError):
    """A request that failed for good.

    :ivar fault: what kind of failure it was
    :ivar maybe_obeyed: an answer was lost on the way: it may have been obeyed, and be so yet
    """

    def __init__(self, words: str, fault: Fault) -> None:
        super().__init__(words)
        self.fault = fault
        self.maybe_obeyed = False


def read(error: Exception) -> Fault | None:
    """What an error that libcloud raised means; None for what no cloud can have caused: a defect."""
    words = _words(error)
    if isinstance(error, InvalidCredsError):
        # EC2's response class says this for everything it answers 403 to as well.
        return Fault(_phrase(words) or TOKEN, words)
    if isinstance(error, BaseHTTPError):
        after = float((error.headers or {}).get("retry-after", 0) or 0)
        return Fault(_status(int(error.code), words), words, after)
    if isinstance(error, MalformedResponseError):
        return Fault(LOST, "an answer that is not in the cloud's own form")
    if isinstance(error, LibcloudError):
        return Fault(_phrase(words) or REFUSED, words)
    if isinstance(error, OSError):  # what requests and sockets raise
        return Fault(LOST, words)
    return None


def _status(code: int, words: str) -> str:
    if code == 401:
        return TOKEN
    if code == 429:
        return LIMIT
    if phrase := _phrase(words):
        return phrase
    if code == 403:
        return TOKEN
    if code == 404:
        return GONE
    return LOST if code >= 500 or code == 408 else REFUSED


def _phrase(words: str) -> str | None:
    return next((kind for kind, pattern in PHRASES if re.search(pattern, words)), None)


def _words(error: Exception) -> str:
    text = getattr(error, "value", None) or getattr(error, "message", None) or str(error)
    return one_line(str(text)) or type(error).__name__


def one_line(text: str) -> str:
    """What a cloud says, on one line that is not too long, without marks of HTML."""
    line = " ".join(re.sub(r"<[^>]+>", " ", text).split())
    return line if len(line) <= LONGEST_WORDS else line[: LONGEST_WORDS - 1] + "…"
