"""The clients are imported when they are asked for."""

from twisted.trial.unittest import SynchronousTestCase

import taskd.client


class LazyImportTests(SynchronousTestCase):
    def test_every_client_is_there(self):
        for name in taskd.client.__all__:
            self.assertEqual(getattr(taskd.client, name).__name__, name)

    def test_another_name_is_missing(self):
        error = self.assertRaises(AttributeError, getattr, taskd.client, "Clients")
        self.assertEqual(str(error), "module 'taskd.client' has no attribute 'Clients'")
