"""The traffic controller, told of orders that were given without Redis.

This is what the controller needs of ``saltern.orders``: take them between looking and deciding, and remove
their files once its own state, which holds the latch, is on disk.
"""

from __future__ import annotations

import sys
from pathlib import Path

from saltern import controller, orders
from saltern.controller import Controller, Look, Report
from saltern.registry import Latch, State


class OrderedController(Controller):
    """A controller that carries out orders."""

    taken: tuple[orders.Order, ...] = ()

    def _converge(self, state: State, look: Look, previous: Look | None) -> Look:
        for order in orders.waiting(self._orders()):
            with self.lock:
                self._latch(Latch(order.reason, order.cause, order.by, order.at))
            fields = {"who": order.by, "reason": order.reason, **order.details}
            self.reporter.report(Report("admin.write", order.what or "order", fields, order.cause))
            self.taken = (*self.taken, order)
        return super()._converge(state, look, previous)

    def _save(self) -> None:
        super()._save()
        orders.done(self._orders(), self.taken)
        self.taken = ()

    def _orders(self) -> Path:
        return Path(self.config.state_dir) / "orders"


if __name__ == "__main__":
    controller.Controller = OrderedController  # type: ignore[misc]
    sys.exit(controller.main())
