"""The app's logging and warnings, on their way into the output pipe."""

import io
import logging
import os
import sys
import warnings

from twisted.trial.unittest import SynchronousTestCase

from taskd.worker.log_handler import adopt, install
from taskd.worker.logs import marked, watch_logging


class PipedStderr(SynchronousTestCase):
    """Tests with a pipe as descriptor 2, and `logging` as if nothing had used it yet."""

    def setUp(self):
        root = logging.getLogger()
        kept = (root.handlers[:], root.level, logging.lastResort, logging.basicConfig, warnings.showwarning)
        self.addCleanup(self.restore, *kept)
        root.handlers[:] = []
        root.setLevel(logging.WARNING)
        self.read_end, write_end = os.pipe()
        os.set_blocking(self.read_end, False)
        self.kept_stderr = os.dup(2)
        os.dup2(write_end, 2)
        os.close(write_end)

    def restore(self, handlers, level, last_resort, basic_config, show_warning):
        root = logging.getLogger()
        root.handlers[:] = handlers
        root.setLevel(level)
        logging.lastResort, logging.basicConfig = last_resort, basic_config
        warnings.showwarning = show_warning
        os.dup2(self.kept_stderr, 2)
        os.close(self.kept_stderr)
        os.close(self.read_end)

    def written(self):
        try:
            return os.read(self.read_end, 65536).decode()
        except BlockingIOError:
            return ""


class LoggingTests(PipedStderr):
    def test_records_from_info_on_are_written_if_nothing_is_configured(self):
        install()
        logger = logging.getLogger("shop.orders")
        logger.debug("a detail")
        logger.info("sold %d", 3)
        logger.error("no %s", "stock")
        self.assertEqual(self.written(), "\x1e2shop.orders: sold 3\n\x1e4shop.orders: no stock\n")

    def test_the_functions_of_the_module_configure_nothing(self):
        install()
        logging.info("one")
        logging.warning("two")
        self.assertEqual(self.written(), "\x1e2one\n\x1e3two\n")
        self.assertEqual(logging.getLogger().handlers, [])

    def test_a_traceback_belongs_to_its_record(self):
        install()
        try:
            raise ValueError("wrong")
        except ValueError:
            logging.getLogger("shop").exception("it broke")
        [line] = self.written().removesuffix("\n").split("\n")
        self.assertTrue(line.startswith("\x1e4shop: it broke\x1fTraceback (most recent call last):\x1f"))
        self.assertTrue(line.endswith("ValueError: wrong"))

    def test_a_level_of_the_apps_own_is_named(self):
        install()
        logging.addLevelName(25, "NOTICE")
        logging.getLogger("shop").log(25, "open")
        self.assertEqual(self.written(), "\x1e2NOTICE: shop: open\n")

    def test_a_replaced_or_closed_stderr_does_not_matter(self):
        install()
        self.patch(sys, "stderr", io.StringIO())
        logging.info("one")
        sys.stderr.close()
        logging.info("two")
        self.assertEqual(self.written(), "\x1e2one\n\x1e2two\n")

    def test_a_filter_is_respected(self):
        install()
        logging.lastResort.addFilter(lambda record: "secret" not in record.getMessage())
        logging.info("a secret")
        logging.info("an order")
        self.assertEqual(self.written(), "\x1e2an order\n")

    def test_a_record_that_cannot_be_formatted_is_one_record_that_says_where_it_comes_from(self):
        class Unprintable:
            def __repr__(self):
                raise RuntimeError

        install()
        for argument, error in ("x", "TypeError"), (Unprintable(), "TypeError"):
            logging.info("%d", argument)
            written = self.written()
            self.assertTrue(written.startswith("\x1e2'%d' cannot be formatted with 1 arguments ("))
            self.assertTrue(written.endswith(f"): {error}\n"))
            self.assertIn(__file__, written)

    def test_without_a_reader_nothing_is_raised(self):
        install()
        os.close(self.read_end)
        logging.info("one")
        self.read_end = os.open(os.devnull, os.O_RDONLY)


class ConfiguredTests(PipedStderr):
    def stderr(self):
        stream = os.fdopen(os.dup(2), "w", buffering=1)
        self.addCleanup(stream.close)
        self.patch(sys, "__stderr__", stream)
        return stream

    def test_a_handler_to_stderr_keeps_its_format_and_gets_levels(self):
        install()
        logging.basicConfig(stream=self.stderr(), format="<%(message)s>", level=logging.DEBUG)
        logging.debug("one\ntwo")
        logging.error("three")
        self.assertEqual(self.written(), "\x1e1<one\x1ftwo>\n\x1e4<three>\n")

    def test_adopting_twice_marks_once(self):
        install()
        logging.getLogger("shop").addHandler(handler := logging.StreamHandler(self.stderr()))
        self.addCleanup(logging.getLogger("shop").removeHandler, handler)
        adopt()
        adopt()
        logging.getLogger("shop").warning("one")
        self.assertEqual(self.written(), "\x1e3one\n")

    def test_a_handler_that_writes_elsewhere_is_left_alone(self):
        install()
        stream = io.StringIO()
        logging.basicConfig(stream=stream, format="%(levelname)s %(message)s")
        logging.warning("one")
        self.assertEqual((stream.getvalue(), self.written()), ("WARNING one\n", ""))

    def test_an_app_with_handlers_of_its_own_has_its_own_level(self):
        install()
        logging.getLogger().addHandler(logging.StreamHandler(stream := io.StringIO()))
        adopt()
        logging.info("one")
        logging.warning("two")
        self.assertEqual(stream.getvalue(), "two\n")

    def test_a_level_that_the_app_has_set_stays(self):
        logging.getLogger().setLevel(logging.ERROR)
        install()
        adopt()
        logging.warning("one")
        logging.error("two")
        self.assertEqual(self.written(), "\x1e4two\n")

    def test_info_set_by_the_app_stays_info(self):
        install()
        logging.basicConfig(stream=(stream := io.StringIO()), format="%(message)s", level=logging.INFO)
        logging.info("one")
        self.assertEqual(stream.getvalue(), "one\n")


class WarningTests(PipedStderr):
    def test_a_warning_is_a_record_of_its_level(self):
        watch_logging()
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            warnings.warn_explicit("old", DeprecationWarning, "shop.py", 7)
        self.assertEqual(self.written(), "\x1e3shop.py:7: DeprecationWarning: old\n")

    def test_a_warning_for_a_file_goes_there(self):
        watch_logging()
        warnings.showwarning("old", UserWarning, "shop.py", 7, file=(file := io.StringIO()))
        self.assertIn("UserWarning: old", file.getvalue())
        self.assertEqual(self.written(), "")


class ImportTests(PipedStderr):
    def test_logging_is_prepared_when_it_is_imported_later(self):
        modules = {name: module for name, module in sys.modules.items() if name.split(".")[0] == "logging"}
        handlers = sys.modules.pop("taskd.worker.log_handler")
        for name in modules:
            del sys.modules[name]
        finders = sys.meta_path[:]
        try:
            watch_logging()
            fresh = __import__("logging")
            self.assertIsNot(fresh, logging)
            fresh.getLogger("shop").info("one")
            self.assertEqual(self.written(), "\x1e2shop: one\n")
            self.assertEqual(sys.meta_path, finders)
            self.assertEqual(type(fresh.__spec__.loader), type(logging.__spec__.loader))
        finally:
            for name in [name for name in sys.modules if name.split(".")[0] == "logging"]:
                del sys.modules[name]
            sys.modules.update(modules)
            sys.modules["taskd.worker.log_handler"] = handlers


class MarkedTests(SynchronousTestCase):
    def test_a_record_is_one_line_without_control_characters_of_its_own(self):
        self.assertEqual(marked(30, "a\nb\x1ec\r\nd\x1b[2J"), "\x1e3a\x1fb\\x1ec\x1fd\\x1b[2J")
