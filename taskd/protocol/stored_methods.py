"""The server's own methods about stored tasks: the parameters and the answer of each."""

from __future__ import annotations

from typing import Protocol, TypeVar

from msgspec import Raw

from taskd.model import NO_SUBMIT_OPTIONS, Outcome, SubmitOptions, Token

__all__ = ["NOT_GIVEN", "STATES", "Answer", "StoredMethods"]

STATES = (
    *("scheduled", "waiting", "running"),
    *("succeeded", "failed", "cancelled", "expired", "set_aside"),
)
"""The states of a stored task, unfinished ones first."""

Asker = TypeVar("Asker", contravariant=True)

Answer = Outcome | None
"""The return type of a handler: the outcome, or None if the handler answers later."""

NOT_GIVEN = Raw(b"null")
"""The default of a raw argument: msgspec has no optional `Raw`, and none of these may be null."""


class StoredMethods(Protocol[Asker]):
    """The table of the methods about stored tasks, like `taskd.protocol.methods.Methods`."""

    def submit(
        self,
        asker: Asker,
        /,
        function: str,
        args: Raw = NOT_GIVEN,
        options: SubmitOptions = NO_SUBMIT_OPTIONS,
        token: Token | None = None,
    ) -> Answer:
        """Store a task, and answer with ``{"task": id, "joined": bool}`` before it is run.

        A second submit with the same `token` joins the task of the first.
        """

    def submit_batch(
        self,
        asker: Asker,
        /,
        function: str,
        args: list[Raw],
        options: SubmitOptions = NO_SUBMIT_OPTIONS,
        then: str | None = None,
        token: Token | None = None,
    ) -> Answer:
        """Store a task for each of `args`, all or none.

        The answer is ``{"batch": id, "tasks": [id, …], "joined": bool}``. A second
        submit with the same `token` joins the batch of the first. When all
        have ended, `then` is called with batch, done, failed, cancelled and total.
        """

    def get(
        self,
        asker: Asker,
        /,
        task: str | None = None,
        batch: str | None = None,
        with_args: bool = False,  # noqa: FBT001, FBT002
    ) -> Answer:
        """Answer with a stored task: its state, its attempts, its outcome if it has one; or with a batch.

        With `with_args` the arguments of the task are part of the answer.
        """

    def wait(
        self, asker: Asker, /, task: str | None = None, timeout: float | None = None, batch: str | None = None
    ) -> Answer:
        """Answer as `get` does, but once the task has ended, or after `timeout` seconds."""

    def attach(
        self, asker: Asker, /, task: str | None = None, batch: str | None = None, after: int = 0
    ) -> Answer:
        """Answer with ``{"state": state, "seq": n}``, and push events to this connection from then on.

        They come as notifications ``taskd.event``: first those after `after` that
        there are (none of them if it is -1), then each as it happens. It ends with `detach`, with the
        connection, or with the last event that there can be.
        """

    def detach(self, asker: Asker, /, task: str | None = None, batch: str | None = None) -> Answer:
        """Push no more events, and answer with ``{"was": "attached"}`` or ``{"was": "not attached"}``."""

    def events(
        self,
        asker: Asker,
        /,
        task: str | None = None,
        batch: str | None = None,
        after: int = 0,
        limit: int = 1000,
    ) -> Answer:
        """Answer with the events of a task as `attach` pushes them, after `after` and at most `limit`.

        There may be fewer if they are long, but at least one if there is any.
        """

    def list(
        self,
        asker: Asker,
        /,
        state: str | None = None,
        function: str | None = None,
        after: str = "",
        limit: int = 100,
        batch: str | None = None,
        key: str | None = None,
        like: str | None = None,
        batches: bool = False,  # noqa: FBT001, FBT002
        owner: str | None = None,
        error: str | None = None,
        newest: bool = False,  # noqa: FBT001, FBT002
        before: str = "",
    ) -> Answer:
        """Answer with stored tasks as `get` does but without results, in the order of their submits.

        Those of a `batch`, of an `owner`, with a `key`, with a text in their `error`, or whose ids begin or
        end `like` that, if given; and of all these only the caller's own, unless it is an operator.
        The batch "" stands for none.
        With `newest` the order is reversed, and the next page is what comes `before` an id.
        With `batches` the answer has batches instead; of the other parameters, only `after`, `newest`,
        `before`, `limit`, `like` and `owner` are possible then.
        """

    def retry(self, asker: Asker, /, task: str) -> Answer:
        """Put back a task that failed or was set aside; answer ``{"was": state}``.

        It waits again, with all of its attempts before it. Any other state is refused.
        """

    def why(self, asker: Asker, /, task: str) -> Answer:
        """Answer with what exactly holds a task: ``{"state", "reason", …}``, as docs/protocol.md has it."""

    def pause(self, asker: Asker, /, function: str) -> Answer:
        """Start no stored task of a function until `resume`, which a restart does not change.

        The answer is ``{"was": "running"}`` or ``{"was": "paused"}``. What runs goes on.
        """

    def resume(self, asker: Asker, /, function: str) -> Answer:
        """Start the stored tasks of a function again, and answer as `pause` does."""
