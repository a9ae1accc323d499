"""Machines of one rented cloud: made, listed, started, stopped, resized, ended. Nothing is left over, whatever fails.

A machine is asked for under a token that marks it in the cloud and is written down here before. Where a request is
answered by silence, what bears the token tells whether it was obeyed. What cannot be carried to its end is removed.
What cannot even be removed, because the cloud does not answer or this program was killed, stays written down, and the
next `create`, `destroy` or `sweep` removes it.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any

from libcloud.compute.base import NodeDriver

from saltern import leading
from saltern.clouds import dialect, faults, ledger
from saltern.clouds.dialect import FLEET, GONE, RUNNING, STOPPED, TOKEN, Dialect, Node, Order
from saltern.clouds.faults import CloudError
from saltern.clouds.patience import Asking, Clock, SystemClock
from saltern.clouds.settings import Settings, Size
from saltern.errors import SalternError
from saltern.fleet import Fleet, role_of


@dataclass(frozen=True)
class Wanted:
    """A machine that is to be made.

    :ivar profile: what it is made by, for the inventory
    :ivar options: what only this cloud knows
    """

    name: str
    size: Size
    image: str
    location: str
    user_data: str
    profile: str = ""
    options: Mapping[str, Any] | None = None


class NameTaken(SalternError):
    """There is a machine by this name."""


class Cloud:
    """One provider, as one command uses it: not for several threads at once."""

    def __init__(
        self,
        settings: Settings,
        spoken: Dialect,
        driver: NodeDriver | None = None,
        clock: Clock | None = None,
        new_token: Callable[[], str] = lambda: secrets.token_hex(8),
    ) -> None:
        """
        :param driver: of libcloud; made from the settings if not given
        :param clock: whose seconds are waited
        :param new_token: what an order is marked with: 16 hexadecimal digits that no other has
        :raises CloudError: the cloud does not answer, or does not know us
        """
        self.settings, self.dialect, self.fleet = settings, spoken, settings.fleet
        self.asking = Asking(settings.patience, clock or SystemClock(), seed=secrets.token_hex(4))
        self._new_token = new_token
        self.driver = driver or self.asking.ask(settings.alias, lambda: spoken.connect(settings))

    # --- looking

    def nodes(self) -> list[Node]:
        """Every machine of the fleet that is there, finished or not."""
        return self._of_fleet(self.dialect.nodes)

    def _scan(self) -> list[Node]:
        return self._of_fleet(self.dialect.scan or self.dialect.nodes)

    def _of_fleet(self, listing: Callable[[NodeDriver, Settings], Iterable[Any]]) -> list[Node]:
        found = self.asking.ask(
            f"{self.settings.alias}: list machines", lambda: list(listing(self.driver, self.settings))
        )
        read = [self.dialect.read(node) for node in found]
        return [node for node in read if node.labels.get(FLEET) == self.fleet.name and node.state != GONE]

    def made(self) -> dict[str, Node]:
        """The machines by name, without those that are only begun; one that nothing is kept of counts as made."""
        begun = {entry.token for entry in ledger.entries(self.fleet) if not entry.made}
        return {node.name: node for node in self.nodes() if node.labels.get(TOKEN) not in begun}

    def find(self, name: str) -> Node:
        """One machine.

        :raises SalternError: there is none
        """
        role_of(name)
        node = self.made().get(name)
        if node is None:
            raise SalternError(f"{name}: no such machine of fleet {self.fleet.name} at {self.settings.alias}")
        return node

    def exists(self, name: str) -> bool:
        """Whether there is such a machine, or the beginning of one.

        :raises SalternError: the id is no role's
        """
        role_of(name)
        return ledger.entry(self.fleet, name) is not None or any(node.name == name for node in self._scan())

    # --- making

    def create(self, wanted: Wanted, told: Callable[[Order], None] = lambda order: None) -> Node:
        """Make a machine and wait until it runs and has an address. What began is removed if it cannot be finished.

        :param told: called just before the cloud is asked
        :raises NameTaken: there is one by this name
        :raises SalternError: it could not be made; nothing is left of it, or the error says what is
        """
        role = role_of(wanted.name)
        leading.need(self.fleet, f"machine {wanted.name}")
        limit = self.dialect.user_data_limit
        if (length := len(wanted.user_data.encode())) > limit:
            raise SalternError(
                f"{wanted.name}: {length} bytes of user data, and {self.settings.alias} takes {limit}"
            )
        with self.fleet.locked(f"machine-{wanted.name}"):
            self._clear_the_way(wanted.name)
            begun = ledger.begin(self.fleet, wanted.name, self.settings.alias, self._new_token())
            order = Order(
                wanted.name, self.fleet.name, role, begun.token, wanted.size, wanted.image, wanted.location,
                wanted.user_data,
            )  # fmt: skip
            try:
                told(order)
                node, lost = self._request(order, wanted.options or {})
                node = self._await(node, _reachable, "to run")
                if lost and not self.dialect.repeatable:
                    # A request whose answer was lost may be obeyed late, beside the one that was answered.
                    self._end(self._twins(order.token, node))
                ledger.finish(self.fleet, begun, node, wanted.size, wanted.profile)
            except BaseException as error:
                self._give_back(order, error)
                raise
        return node

    def _clear_the_way(self, name: str) -> None:
        """Remove what an earlier attempt left by this name; refuse where there is a machine."""
        kept = ledger.entry(self.fleet, name)
        there = [node for node in self._scan() if node.name == name]
        whole = [node for node in there if kept is None or kept.made or node.labels.get(TOKEN) != kept.token]
        if whole:
            raise NameTaken(
                f"machine {name}: there is one already at {self.settings.alias}; `salt-cloud -d {name}` first, or "
                "take another name"
            )
        if kept is not None:
            self._remove(there, name)

    def _request(self, order: Order, options: Mapping[str, Any]) -> tuple[Node, bool]:
        """The machine asked for, and whether an answer was lost on the way."""
        lost = False

        def after_loss() -> Node | None:
            nonlocal lost
            lost = True
            return None if self.dialect.repeatable else self._obeyed(order)

        def request() -> Node:
            return self.dialect.read(self.dialect.create(self.driver, self.settings, order, options))

        about = f"size {order.size.id}, image {order.image}, location {order.location}"
        try:
            node = self.asking.ask(f"{order.name}: {self.settings.alias} ({about})", request, after_loss)
        except CloudError as error:
            error.maybe_obeyed = lost
            raise
        return node, lost

    def _bearing(self, token: str) -> list[Node]:
        return [node for node in self._scan() if node.labels.get(TOKEN) == token]

    def _twins(self, token: str, node: Node) -> list[Node]:
        """Machines of the same order beside the one that it is."""
        return [each for each in self._bearing(token) if each.id != node.id]

    def _obeyed(self, order: Order) -> Node | None:
        """The machine that an unanswered request made, if it did."""
        self.asking.clock.sleep(self.settings.patience.settle)
        return next(iter(self._bearing(order.token)), None)

    def _await(self, node: Node, condition: Callable[[Node], object], what: str) -> Node:
        began = self.asking.clock.now()

        def seen() -> Node | None:
            found = self._look(node)
            if found is None and self.asking.clock.now() - began < self.settings.patience.settle:
                return None  # EC2 does not know at once what it has just made
            if found is None or found.state in (GONE, dialect.FAILED):
                state = found.state if found else GONE
                why = faults.one_line(self.dialect.why(found.own)) if found else ""
                raise SalternError(
                    f"{node.name}: {self.settings.alias} says it is {state}{why and f': {why}'}"
                )
            return found if condition(found) else None

        if condition(node):
            return node
        return self.asking.until(seen, self.settings.patience.ready, f"{node.name} {what}")

    def _look(self, node: Node) -> Node | None:
        try:
            found = self.asking.ask(
                f"{node.name}: look", lambda: self.dialect.look(self.driver, self.settings, node.own)
            )
        except CloudError as error:
            if error.fault.kind == faults.GONE:
                return None
            raise
        return None if found is None else replace(self.dialect.read(found), name=node.name)

    def _give_back(self, order: Order, error: BaseException) -> None:
        """Remove all that an order made. What cannot be removed stays written down."""
        try:
            if getattr(error, "maybe_obeyed", False):
                self.asking.clock.sleep(self.settings.patience.settle)
            self._remove(self._bearing(order.token), order.name)
        except SalternError as other:
            raise SalternError(
                f"{error}; and what was begun could not be removed ({other}): "
                f"`salt-cloud -f sweep {self.settings.alias}` removes it once the cloud answers"
            ) from error

    # --- ending

    def destroy(self, name: str) -> None:
        """End a machine, one that is half-made as well, and wait until it is gone.

        :raises SalternError: there is none, or it does not go away
        """
        role_of(name)
        leading.need(self.fleet, f"machine {name}")
        with self.fleet.locked(f"machine-{name}"):
            there = [node for node in self._scan() if node.name == name]
            if not there and ledger.entry(self.fleet, name) is None:
                raise SalternError(
                    f"{name}: no such machine of fleet {self.fleet.name} at {self.settings.alias}"
                )
            self._remove(there, name)

    def _remove(self, nodes: Iterable[Node], name: str) -> None:
        """End machines, then what they leave beside themselves, then what is kept of them."""
        self._end(nodes)
        for remove in self.dialect.leftovers(self.driver, self.settings, name):
            with _gone_is_fine():
                self.asking.ask(f"{name}: remove what it left", remove)
        ledger.forget(self.fleet, name)

    def _end(self, nodes: Iterable[Node]) -> None:
        nodes = list(nodes)
        for node in nodes:
            with _gone_is_fine():
                self.asking.ask(
                    f"{node.name}: {self.settings.alias}: end it",
                    lambda node=node: self.dialect.destroy(self.driver, node.own),
                )
        for node in nodes:
            self.asking.until(
                lambda node=node: (
                    True if (found := self._look(node)) is None or found.state == GONE else None
                ),
                self.settings.patience.ready,
                f"{node.name} to be gone",
            )

    def sweep(self) -> list[str]:
        """Remove what was begun and never finished, unless somebody is at work on it; the names.

        A cloud may obey a request it never answered long after: what it made beside the machine of that order goes too.
        """
        removed = []
        for entry in ledger.entries(self.fleet):
            if entry.alias != self.settings.alias:
                continue
            with _hold_if_free(self.fleet, entry.name) as free:
                if not free:
                    continue
                if not entry.made:
                    self._remove(self._bearing(entry.token), entry.name)
                    removed.append(entry.name)
                elif twins := self._beside(entry):
                    self._end(twins)
                    removed.append(entry.name)
        return removed

    def _beside(self, entry: ledger.Entry) -> list[Node]:
        """What stands at the cloud beside a machine of the inventory, made by the same order."""
        address = self.fleet.inventory().get(entry.name, {}).get("address")
        ours = [node for node in self._bearing(entry.token) if node.address == address]
        # With none at the address it had, nobody can say which one it is.
        return self._twins(entry.token, ours[0]) if len(ours) == 1 else []

    # --- changing

    def start(self, name: str) -> Node:
        """Start a stopped machine and wait until it runs; one that runs is left alone."""
        with self.fleet.locked(f"machine-{name}"):
            return self._start(self._settled(name))

    def stop(self, name: str) -> Node:
        """Shut a machine down through its own system and wait until it is off; one that is off is left alone."""
        with self.fleet.locked(f"machine-{name}"):
            return self._stop(self._settled(name))

    def reboot(self, name: str) -> Node:
        """Have a machine shut down and start again, without waiting for it; one that is off is started."""
        with self.fleet.locked(f"machine-{name}"):
            node = self._settled(name)
            if node.state == STOPPED:
                return self._start(node)
            self.asking.ask(f"{name}: reboot", lambda: self.driver.reboot_node(node.own))
            return node

    def resize(self, name: str, size: Size) -> None:
        """Give a machine another size: it is stopped for that, and started again if it ran, whatever comes of it.

        :raises SalternError: there is none, or the cloud refuses; the machine is as it was
        """
        change = self.dialect.resize
        if change is None:
            raise SalternError(
                f"resize: not possible at {self.settings.alias}; make a machine of the other size"
            )
        with self.fleet.locked(f"machine-{name}"):
            node = self._settled(name)
            if node.size != size.id:
                now = replace(node, state=STOPPED)
                try:
                    now = off = self._stop(node)

                    def there(seen: Node) -> bool:
                        # Vultr starts what it has changed.
                        return seen.size == size.id and seen.state in (STOPPED, RUNNING, dialect.RESIZED)

                    self._have(
                        off,
                        f"{name}: {self.settings.alias}: size {size.id}",
                        lambda: change(self.driver, off.own, dialect.size(self.driver, size.id)),
                        there,
                    )
                    now = self._await(replace(off, state=dialect.PENDING), there, f"to have size {size.id}")
                    if now.state == dialect.RESIZED:
                        now = self._confirm(now)
                finally:
                    if node.state in (RUNNING, dialect.PENDING):  # pending: it was being started again
                        self._start(now)
                    elif now.state == RUNNING:
                        self._stop(now)
            ledger.change(self.fleet, name, memory=size.memory, cpus=size.cpus)

    def _settled(self, name: str) -> Node:
        """A machine; what another command left waiting for its size to be confirmed is confirmed."""
        node = self.find(name)
        return self._confirm(node) if node.state == dialect.RESIZED else node

    def _confirm(self, node: Node) -> Node:
        """Have a machine that waits for it keep its new size."""

        def there(seen: Node) -> bool:
            return seen.state in (STOPPED, RUNNING)

        self._have(
            node,
            f"{node.name}: confirm its size",
            lambda: self.dialect.confirm(self.driver, node.own),
            there,
        )
        return self._await(replace(node, state=dialect.PENDING), there, "to keep its size")

    def _have(
        self, node: Node, what: str, request: Callable[[], object], there: Callable[[Node], bool]
    ) -> None:
        """Ask for a change, and again only if it is not there: the first answer may have been lost.

        What a machine is already many clouds refuse to make of it.
        """
        asked = False

        def ask() -> None:
            nonlocal asked
            if asked and (seen := self._look(node)) is not None and there(seen):
                return
            asked = True
            request()

        self.asking.ask(what, ask)

    def _start(self, node: Node) -> Node:
        if node.state == RUNNING:
            return node
        self._have(
            node,
            f"{node.name}: start",
            lambda: self.dialect.start(self.driver, node.own),
            lambda seen: seen.state == RUNNING,
        )
        runs = self._await(replace(node, state=dialect.PENDING), _reachable, "to run")
        ledger.change(self.fleet, node.name, address=runs.address)
        return runs

    def _stop(self, node: Node) -> Node:
        if node.state == STOPPED:
            return node

        def there(seen: Node) -> bool:
            return seen.state == STOPPED

        self._have(node, f"{node.name}: stop", lambda: self.dialect.stop(self.driver, node.own), there)
        return self._await(replace(node, state=dialect.PENDING), there, "to stop")

    # --- what there is to choose from

    def images(self) -> dict[str, dict[str, Any]]:
        """What machines can be made of, by id."""
        found = self.asking.ask(
            f"{self.settings.alias}: list images", lambda: self.dialect.images(self.driver, self.settings)
        )
        return {
            str(image.extra.get("slug") or image.id): {"id": str(image.id), "name": image.name}
            for image in found
        }

    def sizes(self) -> dict[str, dict[str, Any]]:
        """The cloud's own sizes by id, memory in MiB."""
        found = self.asking.ask(f"{self.settings.alias}: list sizes", self.driver.list_sizes)
        return {
            str(size.name if size.id is None else size.id): {
                "name": size.name, "memory": size.ram, "disk": size.disk, "price": size.price,
            }
            for size in found
        }  # fmt: skip

    def locations(self) -> dict[str, dict[str, Any]]:
        """Where machines can be made, by id."""
        found = self.asking.ask(f"{self.settings.alias}: list locations", self.driver.list_locations)
        return {str(place.id): {"name": place.name, "country": place.country} for place in found}


def _reachable(node: Node) -> bool:
    return node.state == RUNNING and node.address is not None


@contextmanager
def _hold_if_free(fleet: Fleet, name: str) -> Iterator[bool]:
    """Hold a machine unless another command does; whether it is held."""
    with ExitStack() as stack:
        try:
            stack.enter_context(fleet.locked(f"machine-{name}", wait=False))
        except SalternError:
            yield False
            return
        yield True


@contextmanager
def _gone_is_fine() -> Iterator[None]:
    """A machine that is to be ended and is not there is what was wanted."""
    try:
        yield
    except CloudError as error:
        if error.fault.kind != faults.GONE:
            raise
