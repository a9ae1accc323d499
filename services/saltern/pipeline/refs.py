"""What may be pushed, and where it goes: decisions about git refs, without git."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

NOTHING = "0" * 40
"""How git says that a ref is not there, before or after."""
HEADS, TAGS = "refs/heads/", "refs/tags/"
TARGETS = ("prod", "canary")
LONGEST_NAME = 64
MOST_AT_ONCE = 10
"""Refs of one push; each is a build of its own."""

# Parts of letters, digits, dot, dash and underscore, joined by single slashes; each starts with a letter or a digit.
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(?:/[A-Za-z0-9][A-Za-z0-9._-]*)*\Z")
COMMIT = re.compile(r"[0-9a-f]{40}\Z")


@dataclass(frozen=True)
class Update:
    """One ref that a push changes.

    :ivar forced: whether commits are lost by it: the new one does not come after the old one
    """

    ref: str
    old: str
    new: str
    forced: bool = False

    @property
    def deletes(self) -> bool:
        return self.new == NOTHING

    @property
    def is_new(self) -> bool:
        return self.old == NOTHING


def printable(text: str) -> str:
    """Somebody's words, safe on a terminal and in a log: ASCII, quoted, not long."""
    shown = ascii(text)
    return shown if len(shown) <= LONGEST_NAME + 20 else f"{shown[: LONGEST_NAME + 16]}...'"


def name_of(ref: str) -> str:
    """The branch or tag of a ref whose name may be pushed.

    :raises ValueError: it may not; one line, which says what would be right
    """
    for prefix in (HEADS, TAGS):
        if ref.startswith(prefix):
            name = ref.removeprefix(prefix)
            break
    else:
        raise ValueError(
            f"{printable(ref)}: neither a branch nor a tag; push refs/heads/... or refs/tags/..."
        )
    kind = "branch" if prefix == HEADS else "tag"
    if len(name) > LONGEST_NAME:
        raise ValueError(
            f"{kind} {printable(name)}: longer than {LONGEST_NAME} characters; choose a shorter name"
        )
    if not NAME.match(name) or ".." in name or name.endswith((".", ".lock")):
        raise ValueError(
            f"{kind} {printable(name)}: not a name that is taken here; letters, digits and . _ - /, "
            "such as feature/colours"
        )
    return name


def is_tag(ref: str) -> bool:
    return ref.startswith(TAGS)


def target_of(ref: str, branches: Mapping[str, str]) -> str:
    """Where a build of this ref goes: prod, canary, or nowhere ("").

    :param branches: the pillar's pipeline.branches

    >>> target_of("refs/heads/staging", {"staging": "canary"})
    'canary'
    """
    return branches.get(ref.removeprefix(HEADS), "") if ref.startswith(HEADS) else ""


def refusal(updates: Iterable[Update], branches: Mapping[str, str]) -> str:
    """Why a push is refused as a whole, in one line; empty when it is taken."""
    updates = list(updates)
    if len(updates) > MOST_AT_ONCE:
        return f"{len(updates)} refs in one push, and each is a build; {MOST_AT_ONCE} at most: push them one by one"
    for each in updates:
        try:
            name = name_of(each.ref)
        except ValueError as error:
            return str(error)
        if is_tag(each.ref):
            if not each.is_new:
                what = "cannot be deleted" if each.deletes else "stands already"
                return f"tag {name}: {what}: a tag is a release for good; push another one"
        elif target := target_of(each.ref, branches):
            if each.deletes:
                return f"branch {name}: runs on {target} and is not deleted; pillar/pipeline.sls maps it"
            if each.forced and target == "prod":
                return f"branch {name}: would lose commits that ran on {target}; merge instead of forcing"
    return ""


def to_build(updates: Iterable[Update]) -> list[Update]:
    """Those of a push that was taken that are built: all but what is deleted."""
    return [each for each in updates if not each.deletes]
