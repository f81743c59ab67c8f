"""The choice of a reactor by an option."""

from twisted.application.reactors import NoSuchReactor
from twisted.trial.unittest import SynchronousTestCase

from taskd.daemon import reactors
from taskd.errors import StartError
from taskd.settings.settings import settle


class ReactorTests(SynchronousTestCase):
    def install(self, name, outcome=None):
        def installed(given):
            self.names.append(given)
            if outcome is not None:
                raise outcome

        self.names = []
        self.patch(reactors, "installReactor", installed)
        reactors.install_reactor(settle({}, {"TASKD_REACTOR": name}, self.mktemp()))

    def test_the_named_reactor_is_installed(self):
        self.install("poll")
        self.assertEqual(self.names, ["poll"])

    def test_an_unknown_one_is_answered_with_the_nearest_or_with_all(self):
        error = self.assertRaises(StartError, self.install, "epol", NoSuchReactor("epol"))
        self.assertIn("taskd: TASKD_REACTOR: Twisted has no reactor 'epol'; did you mean epoll?", str(error))
        error = self.assertRaises(StartError, self.install, "zzz", NoSuchReactor("zzz"))
        self.assertIn("there are asyncio, ", str(error))

    def test_a_reactor_that_cannot_be_used_is_refused_with_the_reason(self):
        error = self.assertRaises(StartError, self.install, "gi", ImportError("No module named 'gi'"))
        self.assertIn("the reactor 'gi' cannot be used here: No module named 'gi'", str(error))
