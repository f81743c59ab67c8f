"""The order in which a running daemon stops, with parts that only record their calls."""

from collections import Counter

from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import Clock
from twisted.logger import formatEvent, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase

from taskd.daemon.lifecycle import FLUSH_TIMEOUT, RunningDaemon
from taskd.daemon.parts import Parts

STOP_TIMEOUT = 30.0
DRAIN_TIME = 10.0


class RecordingPart:
    """A part whose `drain` and `close` the test fires; by default they fire at once."""

    def __init__(self, name, calls, *, drained=True, closed=True):
        self.name = name
        self.calls = calls
        self.drained = succeed(None) if drained else Deferred()
        self.closed = succeed(None) if closed else Deferred()
        self.tasks = Counter()
        self.is_announced = False

    def announce_stop(self):
        self.is_announced = True

    def in_flight(self):
        return self.tasks

    def stop_accepting(self):
        self.calls.append(f"{self.name} stop_accepting")

    def drain(self):
        self.calls.append(f"{self.name} drain")
        return self.drained

    def abort(self):
        self.calls.append(f"{self.name} abort")

    def close(self):
        self.calls.append(f"{self.name} close")
        return self.closed

    def reload(self):
        self.calls.append("reload")
        self.reloaded = Deferred()
        return self.reloaded

    def kill(self):
        self.calls.append("kill")


class RecordingPort:
    def __init__(self, calls):
        self.calls = calls
        self.closed = succeed(None)

    def close(self):
        self.calls.append("port close")
        return self.closed


class RecordingSupervisor:
    """A supervisor that records the names of what it is sent, without the texts."""

    def __init__(self, sent):
        self.sent = sent
        self.texts = []

    def __getattr__(self, name):
        def note(text="", *_):
            self.sent.append(name)
            self.texts.append(text)

        return note


class StoppingTests(SynchronousTestCase):
    def daemon(self, gateway=None, connections=None, server=None):
        """Make a daemon whose parts have these attributes; their calls are in `self.calls`."""
        self.calls = []
        self.clock = Clock()
        self.port = RecordingPort(self.calls)
        self.gateway = RecordingPart("gateway", self.calls, **(gateway or {}))
        self.connections = RecordingPart("connections", self.calls, **(connections or {}))
        self.server = RecordingPart("server", self.calls, **(server or {}))
        parts = Parts([self.gateway], [self.connections], [self.server])
        return self.running(parts)

    def running(self, parts, drain_time=0.0):
        self.sent = []
        return RunningDaemon(
            self.clock,
            [self.port],
            parts,
            STOP_TIMEOUT,
            succeed(None),
            self.server,
            RecordingSupervisor(self.sent),
            drain_time=drain_time,
        )

    def draining(self):
        """Make a daemon that serves for `DRAIN_TIME` after the signal, with a part that does not drain."""
        self.daemon()
        return self.running(Parts([self.gateway], [self.connections], [self.server]), DRAIN_TIME)

    def since(self, place):
        return self.calls[place:]

    def test_accepting_stops_before_anything_is_awaited(self):
        daemon = self.daemon(server={"drained": False})
        self.assertNoResult(daemon.close())
        self.assertEqual(
            self.calls,
            [
                *("gateway stop_accepting", "connections stop_accepting", "server stop_accepting"),
                *("port close", "gateway drain", "server drain"),
            ],
        )

    def test_parts_are_closed_after_the_ports(self):
        daemon = self.daemon()
        self.port.closed = Deferred()
        self.assertNoResult(daemon.close())
        self.assertEqual(self.calls[-1], "port close")
        self.port.closed.callback(None)
        self.assertEqual(self.calls[-1], "server close")

    def test_websockets_are_closed_before_connections_and_processes_last(self):
        daemon = self.daemon()
        self.successResultOf(daemon.close())
        self.assertEqual(
            self.since(self.calls.index("gateway close")),
            ["gateway close", "connections close", "server close"],
        )
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_each_step_waits_for_the_previous_one(self):
        daemon = self.daemon(
            gateway={"closed": False},
            connections={"closed": False},
            server={"drained": False, "closed": False},
        )
        stopped = daemon.close()
        for deferred, last in (
            (self.server.drained, "gateway close"),
            (self.gateway.closed, "connections close"),
            (self.connections.closed, "server close"),
        ):
            deferred.callback(None)
            self.assertEqual(self.calls[-1], last)
        self.assertNoResult(stopped)
        self.server.closed.callback(None)
        self.successResultOf(stopped)
        self.assertNotIn("abort", " ".join(self.calls))

    def test_tasks_that_still_run_at_the_deadline_are_aborted_and_connections_are_not(self):
        daemon = self.daemon(server={"drained": False})
        stopped = daemon.close()
        place = len(self.calls)
        self.clock.advance(STOP_TIMEOUT - 0.1)
        self.assertEqual(self.since(place), [])
        self.clock.advance(0.1)
        self.assertEqual(self.since(place), ["gateway abort", "server abort"])
        self.assertNoResult(stopped)
        self.server.drained.callback(None)
        self.successResultOf(stopped)

    def test_clients_that_do_not_read_are_dropped_after_their_timeout(self):
        daemon = self.daemon(connections={"closed": False})
        stopped = daemon.close()
        place = len(self.calls)
        self.clock.advance(FLUSH_TIMEOUT)
        self.assertEqual(self.since(place), ["connections abort"])
        self.connections.closed.callback(None)
        self.successResultOf(stopped)
        self.assertEqual(self.calls[-1], "server close")

    def test_abort_aborts_every_part_and_each_later_step(self):
        daemon = self.daemon(server={"drained": False, "closed": False})
        stopped = daemon.close()
        place = len(self.calls)
        daemon.abort()
        self.assertEqual(self.since(place), ["gateway abort", "connections abort", "server abort"])
        self.server.drained.callback(None)
        self.assertEqual(self.calls[-2:], ["server close", "server abort"])
        self.server.closed.callback(None)
        self.successResultOf(stopped)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_a_gateway_alone_and_a_task_server_alone_stop_too(self):
        self.daemon()
        self.successResultOf(self.running(Parts(gateway=[self.gateway])).close())
        self.assertEqual(self.calls[-1], "gateway close")
        self.successResultOf(self.running(Parts((), [self.connections], [self.server])).close())
        self.assertEqual(self.calls[-1], "server close")

    def test_reload_is_passed_on_to_the_task_server(self):
        self.daemon().reload()
        self.assertEqual(self.calls, ["reload"])

    def test_the_supervisor_learns_that_a_reload_has_begun_and_ended(self):
        daemon = self.daemon()
        daemon.reload()
        self.assertEqual(self.sent, ["reloading"])
        self.server.reloaded.callback("reloaded")
        self.assertEqual(self.sent, ["reloading", "ready"])

    def test_of_two_reloads_the_end_of_the_later_one_counts(self):
        daemon = self.daemon()
        daemon.reload()
        first = self.server.reloaded
        daemon.reload()
        first.callback("given up")
        self.assertEqual(self.sent, ["reloading", "reloading"])
        self.server.reloaded.callback("reloaded")
        self.assertEqual(self.sent[2:], ["ready"])

    def test_a_gateway_alone_is_ready_again_at_once(self):
        self.daemon()
        daemon = RunningDaemon(
            self.clock, [], Parts(), STOP_TIMEOUT, succeed(None), None, RecordingSupervisor(self.sent)
        )
        daemon.reload()
        self.assertEqual(self.sent, ["reloading", "ready"])

    def test_a_reload_that_ends_during_the_stop_does_not_make_the_daemon_ready(self):
        daemon = self.daemon(server={"drained": False})
        daemon.reload()
        daemon.close()
        self.server.reloaded.callback("not reloaded")
        self.assertEqual(self.sent, ["reloading", "stopping"])

    def test_the_supervisor_learns_of_each_phase_of_a_stop(self):
        daemon = self.daemon(server={"drained": False, "closed": False})
        self.server.tasks = Counter(report=1)
        daemon.close()
        self.assertEqual(self.sent, ["stopping", "status"])
        self.server.drained.callback(None)
        self.assertEqual(self.sent[2:], ["finishing"])
        self.server.closed.callback(None)
        self.assertEqual(self.sent[3:], ["close"])

    # --- the time before the stop ---

    def test_for_the_drain_time_everything_goes_on_and_is_only_announced(self):
        daemon = self.draining()
        stopped = daemon.close()
        self.assertTrue(self.gateway.is_announced and self.server.is_announced)
        self.assertEqual((self.calls, self.sent), ([], ["stopping"]))
        self.clock.advance(DRAIN_TIME - 0.1)
        self.assertEqual(self.calls, [])
        self.clock.advance(0.1)
        self.assertIn("server stop_accepting", self.calls)
        self.successResultOf(stopped)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_the_drain_time_can_be_skipped_once(self):
        daemon = self.draining()
        self.assertFalse(daemon.skip_draining())
        stopped = daemon.close()
        self.assertTrue(daemon.skip_draining())
        self.assertFalse(daemon.skip_draining())
        self.successResultOf(stopped)
        self.assertNotIn("server abort", self.calls)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_an_abort_ends_the_drain_time_too(self):
        daemon = self.draining()
        stopped = daemon.close()
        daemon.abort()
        self.successResultOf(stopped)
        self.assertIn("server abort", self.calls)

    def test_a_stop_without_drain_time_is_announced_as_well(self):
        daemon = self.daemon(server={"drained": False})
        daemon.close()
        self.assertTrue(self.gateway.is_announced and self.server.is_announced)

    def logged(self):
        """The lines that are logged from now on."""
        lines = []

        def observe(event):
            lines.append(formatEvent(event))

        globalLogPublisher.addObserver(observe)
        self.addCleanup(globalLogPublisher.removeObserver, observe)
        return lines

    def test_a_stop_says_what_it_waits_for_how_it_goes_on_and_when_it_gives_up(self):
        daemon = self.daemon(gateway={"drained": False}, server={"drained": False})
        self.server.tasks = Counter(report=2, mail=1)
        self.gateway.tasks = Counter(report=1)  # one of the server's: counted once
        lines = self.logged()
        daemon.close()
        self.assertIn("waiting up to 30 s for 3 tasks (report: 2, mail: 1)", lines[-1])
        self.server.tasks = Counter(report=1)
        self.clock.advance(10.0)
        self.assertIn("still waiting for 1 task (report: 1), for 20 s more", lines[-1])
        self.clock.pump([10.0, 10.0])
        self.assertIn("still run after 30 s: they are ended: 1 task (report: 1)", lines[-1])

    def test_a_stop_without_tasks_logs_no_report(self):
        daemon = self.daemon()
        lines = self.logged()
        self.successResultOf(daemon.close())
        self.assertEqual(lines, [])

    def test_a_stop_that_has_ended_reports_no_more(self):
        daemon = self.daemon(server={"drained": False})
        self.server.tasks = Counter(report=1)
        stopped = daemon.close()
        self.server.drained.callback(None)
        self.successResultOf(stopped)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_a_stop_that_was_hastened_reports_no_more(self):
        daemon = self.daemon(server={"drained": False})
        self.server.tasks = Counter(report=1)
        daemon.close()
        daemon.abort()
        lines = self.logged()
        self.clock.advance(10.0)
        self.assertEqual(lines, [])

    def test_workers_that_take_long_to_exit_are_mentioned(self):
        daemon = self.daemon(server={"closed": False})
        lines = self.logged()
        daemon.close()
        self.clock.advance(1.0)
        self.assertIn("waiting for the workers to exit", lines[-1])
