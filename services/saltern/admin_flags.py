"""Feature flags on the admin API, by the flag set of openfeature-provider-redis.

That distribution owns the format, the checks, the history and the undo of flags; here is only HTTP.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from openfeature_redis import flagset

from .admin_routes import CAUSE, REVISION, Answer, Call, Problem, Route, body_of, whole
from .canary_control import Outcome, tag
from .flag_edits import glance
from .registry import Change

if TYPE_CHECKING:
    from .admin import Admin

_ATTEMPTS = 8
_KEY = {
    "type": "string",
    "pattern": r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$",
    "description": "a flag's key: 1 to 128 of A-Z a-z 0-9 . _ -, a letter or digit first",
}
_FEATURE = {**_KEY, "maxLength": 100}
_SWITCH = {"enum": ["0", "1"]}
_DEFINITION = ("variants", "targeting", "metadata")
"""What only a whole definition has."""


def routes(admin: Admin) -> list[Route]:
    """The flags' routes."""
    flags = Flags(admin)
    outcome = {200: ("What was, what is, and the journal line of the change.", "Outcome")}
    body = body_of(
        state={"enum": ["ENABLED", "DISABLED"]},
        defaultVariant={"type": ["string", "null"], "maxLength": 200},
        variants={"type": "object", "minProperties": 1, "description": "an object with at least one variant"},
        targeting={"type": "object"},
        metadata={"type": "object"},
        revision=REVISION,
        cause=CAUSE,
    )
    about = (
        "1 disables the feature, 0 enables it. The boolean flag disable_FEATURE is set to true or false; "
        "where there is none, the boolean flag FEATURE is set to false or true."
    )
    switch: dict[str, Any] = {
        "params": {"feature": _FEATURE, "value": _SWITCH},
        "query": {"cause": CAUSE},
        "scope": "write",
    }
    path = "/disable/{feature}/{value}"
    return [
        Route("GET", "/flags", "Every flag.", flags.every, {200: ("The flags.", "Flags")}),
        Route("GET", "/flags/{key}", "One flag's definition.", flags.one, {200: ("The flag.", "Flag")},
              params={"key": _KEY}, tagged=True),
        Route("PUT", "/flags/{key}", "Switch a flag, or define it.", flags.put, outcome, scope="write",
              params={"key": _KEY}, body=body, body_required=True, if_match=True,
              description="With variants it is the flag's whole definition in flagd's format; without, "
              "state and defaultVariant change what is there."),
        Route("POST", path, "Disable or enable a feature.", flags.disable, outcome, description=about,
              **switch),
        Route("GET", path, "The same for callers that can only fetch a URL.", flags.disable, outcome,
              description=f"{about} It changes something although it is a GET.", **switch),
    ]  # fmt: skip


class Flags:
    """What the routes do."""

    def __init__(self, admin: Admin) -> None:
        self.admin = admin

    def every(self, call: Call) -> Answer:
        """The flags at a glance."""
        return Answer(200, glance(self._read()))

    def one(self, call: Call) -> Answer:
        """A flag's definition."""
        flag = _flag(self._read(), call.params["key"])
        return Answer(200, flag, {"ETag": f'"{tag(flag)}"'})

    def put(self, call: Call) -> Answer:
        """Switch or define a flag."""
        key = call.params["key"]
        given = {name: value for name, value in call.body.items() if name not in ("revision", "cause")}
        if not given:
            raise Problem(
                400, "body: nothing to change; give state, defaultVariant, or a definition with variants"
            )
        alone = [name for name in _DEFINITION if name in given]
        if alone and "variants" not in given:
            raise Problem(
                400, f"body: {alone[0]} is part of a definition; give variants, state and the rest too"
            )

        def edit(document: Mapping[str, Any]) -> dict[str, Any]:
            if "variants" in given:
                return {**document, "flags": {**document["flags"], key: given}}
            changed = dict(document)
            if "state" in given:
                changed = flagset.with_state(changed, key, given["state"])
            if "defaultVariant" in given:
                changed = flagset.with_default(changed, key, given["defaultVariant"])
            return changed

        return self._write(call, key, edit, create="variants" in given)

    def disable(self, call: Call) -> Answer:
        """Disable (1) or enable (0) a feature by its boolean flag."""
        feature, off = call.params["feature"], call.params["value"] == "1"
        flags = self._read().document["flags"]
        guard = f"disable_{feature}"
        key, value = (guard, off) if guard in flags else (feature, not off)
        if key not in flags:
            raise Problem(
                404, f"flags: there is neither {guard} nor {feature}; GET /flags lists what there is"
            )

        def edit(document: Mapping[str, Any]) -> dict[str, Any]:
            flag = document["flags"].get(key, {})
            variant = next((name for name, each in flag.get("variants", {}).items() if each is value), None)
            if variant is None:
                raise Problem(
                    409, f"flags: {key} has no variant that is {str(value).lower()}; use PUT /flags/{key}"
                )
            if flag.get("targeting"):
                raise Problem(
                    409, f"flags: {key} has targeting, which a default does not undo; use PUT /flags/{key}"
                )
            return flagset.with_state(flagset.with_default(document, key, variant), key, "ENABLED")

        return self._write(call, key, edit, create=False)

    def _read(self) -> Any:
        try:
            stored = flagset.read(self.admin.client)
            flagset.validate(stored.document)
            return stored
        except flagset.BadFlagSet as error:
            raise Problem(
                503,
                f"{error}; somebody wrote it past the checks; salt-run flags.undo unrecorded=True mends it",
            ) from error

    def _write(
        self, call: Call, key: str, edit: Callable[[Mapping[str, Any]], dict[str, Any]], *, create: bool
    ) -> Answer:
        """Edit the set as it is, or as it has become meanwhile, and audit that."""
        expected = whole(call.body.get("revision"))
        for _ in range(_ATTEMPTS):
            stored = self._read()
            before = stored.document["flags"].get(key)
            if expected is not None and expected != stored.revision:
                text = f"flags: revision is {stored.revision}, not the expected {expected}; read it again"
                raise Problem(409, text)
            if before is None and not create:
                _flag(stored, key)
            if call.seen is not None and (before is None or not call.seen & {"*", tag(before)}):
                raise Problem(412, f"flags: {key} was changed since it was read; read it again")
            try:
                document = edit(stored.document)
                made = flagset.write(
                    self.admin.client,
                    document,
                    who=call.who,
                    why=call.cause.strip() or call.what,
                    expected=stored,
                )
            except flagset.Conflict:
                continue
            except flagset.NoSuchFlag as error:
                raise Problem(400, str(error)) from error
            except flagset.BadFlagSet as error:
                raise Problem(400, str(error)) from error
            change = Change(bool(made.changed), made.revision)
            outcome = Outcome(change, before or {}, document["flags"][key])
            self.admin.audit(call, outcome.to_data())
            return Answer(200, outcome.to_data())
        raise Problem(409, f"flags: others kept writing through {_ATTEMPTS} attempts; nothing was written")


def _flag(stored: Any, key: str) -> dict[str, Any]:
    flags: dict[str, dict[str, Any]] = stored.document["flags"]
    if key not in flags:
        known = ", ".join(sorted(flags)) or "none"
        raise Problem(404, f"flags: there is no flag {key}; there are: {known}")
    return flags[key]
