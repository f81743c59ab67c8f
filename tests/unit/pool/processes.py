"""A reactor, fork servers and workers without processes, whose part the tests play."""

import os
import select
from types import SimpleNamespace

from twisted.internet.task import Clock
from twisted.python.failure import Failure

from taskd.functions.registry import FunctionInfo
from taskd.worker.board import Board
from taskd.worker.messages import Exited, Ready, encode

FUNCTIONS = [FunctionInfo("f", "f()", "", {})]


class FakeReactor(Clock):
    """A clock, and a reactor for real descriptors that turns when the test calls it."""

    def __init__(self):
        super().__init__()
        self.readers = set()
        self.writers = set()

    def addReader(self, reader):
        self.readers.add(reader)

    def removeReader(self, reader):
        self.readers.discard(reader)

    def addWriter(self, writer):
        self.writers.add(writer)

    def removeWriter(self, writer):
        self.writers.discard(writer)

    def turn(self):
        """Write what there is room for, and read all that has arrived and all that follows from it."""
        self.advance(0)
        for writer in [one for one in self.writers if select.select([], [one], [], 0)[1]]:
            writer.doWrite()
        while ready := [one for one in self.readers if select.select([one], [], [], 0)[0]]:
            for reader in ready:
                if reader not in self.readers:
                    continue
                reason = reader.doRead()
                if reason is not None:
                    self.readers.discard(reader)
                    reader.connectionLost(Failure(reason))
            self.advance(0)

    @property
    def delays(self):
        """Return the seconds until each delayed call."""
        return sorted(round(call.getTime() - self.seconds(), 6) for call in self.getDelayedCalls())


class FakeForkServer:
    """A stand-in for `ForkServerProcess`, for generations."""

    def __init__(self, board, observer):
        self.killed = []
        self.board = Board(board)
        self.observer = observer
        self.workers = {}
        self.signals = []
        self.ended = None
        """How the fork server was ended: "close", "abort", or None."""
        self.is_gone = False

    # --- `ForkServerProcess` ---

    def fork(self, number, place, channel, output):
        # The worker gets copies of both descriptors, as a process would.
        self.workers[number] = SimpleNamespace(place=place, channel=os.dup(channel), output=os.dup(output))

    def signal(self, number, signal_number, *, group):
        self.signals.append((number, signal_number, group))

    def kill_child(self, pid):
        self.killed.append(pid)

    def kill(self):
        self.killed.append("fork server")

    def close(self):
        assert self.ended is None
        self.ended = "close"

    def abort(self):
        assert self.ended is None
        self.ended = "abort"

    # --- what the processes do ---

    def load(self):
        self.observer.app_loaded(FUNCTIONS)

    def born(self, number):
        self.observer.worker_forked(number, 2**22 + number, "")  # no process has such an id

    def ready(self, number):
        self.born(number)
        self.send(number, Ready())

    def send(self, number, *messages):
        os.write(self.workers[number].channel, b"".join(map(encode, messages)))

    def exit(self, number, code=0, **more):
        """End the process of a worker, and close all of its descriptors."""
        self.hang_up(number)
        self.reap(number, code, **more)

    def hang_up(self, number):
        worker = self.workers.pop(number)
        os.close(worker.channel)
        os.close(worker.output)

    def reap(self, number, code=0, **more):
        self.observer.worker_reaped(Exited(number, code, 1000, **more))

    def received(self, number):
        """Return all the lines that were sent to a worker and that it has not read."""
        return os.read(self.workers[number].channel, 65536).splitlines()

    def end(self, how="exit status 1"):
        """End the process of the fork server."""
        self.is_gone = True
        self.observer.fork_server_ended(how)


class ForkServers(list):
    """All fork servers that were started; the last one is the newest."""

    cannot_start: Exception | None = None
    """What prevents the start of another one."""

    def start(self, board, observer):
        if self.cannot_start is not None:
            raise self.cannot_start
        self.append(FakeForkServer(board, observer))
        return self[-1]
