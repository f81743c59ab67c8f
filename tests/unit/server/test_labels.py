"""Functions that need labels which the server was not started with."""

from tests.unit.pools import LoggingCase, function

RENDER, SEND = function("render", needs=("gpu", "big")), function("send")


class LabelTests(LoggingCase):
    def make(self, labels=(), functions=(RENDER, SEND), **more):
        return super().make(labels=labels, functions=functions, **more)

    def ask(self, function="render", **more):
        client = self.connect()
        client.call(function, **more)
        self.turn()
        return client

    def test_a_call_is_refused_with_the_labels_that_are_missing_and_how_to_get_them(self):
        self.make(["big"])
        error = self.ask().reply()
        self.assertEqual((error["code"], error["data"]), (-32008, {"reason": "labels", "missing": ["gpu"]}))
        self.assertIn("render needs the label gpu", error["message"])
        self.assertIn("--label gpu", error["message"])
        self.assertNotIn("big", error["message"])
        self.assertNotIn("taskd.submit", error["message"])
        self.assertEqual(self.pool.workers[1].attempts, [])

    def test_all_missing_labels_are_named(self):
        self.make()
        message = self.ask().reply()["message"]
        self.assertIn("needs the labels gpu and big", message)
        self.assertIn("--label gpu --label big", message)

    def test_a_server_with_the_labels_runs_it_and_so_does_one_with_all(self):
        for labels in (["gpu", "big", "other"], None):
            self.make(labels)
            client = self.ask()
            self.pool.finish(1)
            self.assertEqual(client.reply(), 1)

    def test_the_other_functions_are_run_as_ever(self):
        self.make()
        client = self.ask("send")
        self.pool.finish(1)
        self.assertEqual(client.reply(), 1)

    def test_a_call_that_came_before_the_import_is_refused_after_it(self):
        self.make(loaded=False)
        client, other = self.ask(), self.ask("send")
        self.pool.load(RENDER, SEND)
        self.turn()
        self.assertEqual(client.reply()["data"]["reason"], "labels")
        self.assertEqual(other.received(), [])

    def test_calls_that_wait_are_refused_by_new_code_that_needs_a_label(self):
        self.make(functions=[function("render")])
        running, waiting = self.ask(), self.ask()
        self.server.reload()
        self.pool.load(RENDER, generation=2)
        self.turn()
        self.pool.ready()
        self.turn()
        self.assertEqual(waiting.reply()["data"]["reason"], "labels")
        self.pool.finish(1)
        self.turn()
        self.assertEqual(running.reply(), 1)

    def test_functions_and_status_show_labels(self):
        self.make(["big"])
        render, send = self.ask("taskd.functions").reply()
        self.assertEqual((render["needs"], render["missing"]), (["gpu", "big"], ["gpu"]))
        self.assertEqual((send["needs"], send["missing"]), ([], []))
        self.assertEqual(self.ask("taskd.status").reply()["labels"], ["big"])
        self.assertTrue(self.has_logged("not run here: render (needs gpu)"), self.logged)

    def test_nothing_is_logged_if_nothing_is_missing(self):
        self.make(["gpu", "big"])
        self.assertFalse(self.has_logged("not run here"))
