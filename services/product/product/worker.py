"""A gunicorn thread worker that loses no connection when it is told to stop."""

import selectors

from gunicorn.workers.gthread import ThreadWorker


class DrainingThreadWorker(ThreadWorker):
    """Takes what the kernel has accepted already before it stops listening.

    The stock worker leaves the listening socket open, unread, until its last request is answered: clients go
    on connecting meanwhile, and all of them are reset at the end. Here, on the way out, the queue is emptied
    into the worker and the socket closed at once: a client is served, or refused and free to go elsewhere.
    """

    def set_accept_enabled(self, enabled: bool) -> None:
        """Stop or start taking connections; called with False once more when the worker is stopping."""
        super().set_accept_enabled(enabled)
        if enabled or self.alive:
            return
        for listener in self.sockets:
            with selectors.DefaultSelector() as queue:
                queue.register(listener, selectors.EVENT_READ)
                while queue.select(timeout=0):
                    self.accept(listener)
            listener.close()
