"""Two functions of one name are told apart from one whose module is imported again."""

import sys
import threading

from twisted.trial.unittest import SynchronousTestCase

from taskd.functions.origins import Origin
from taskd.functions.registry import Registry

DECORATED = """
def plain(function):
    def wrapper(*args):
        return function(*args)
    return wrapper

@task
@plain
def first():
    return 1

@task
@plain
def second():
    return 2
"""

SAME_LINE = """
def make(n):
    @task
    def function():
        return n

make(1), make(2)
"""

LAMBDAS = """
for n in 1, 2:
    task(lambda: n)
"""

METHODS = """
class Service:
    def method(self):
        return 1

task(Service().method)
task(Service().method)
"""

PARTIALS = """
from functools import partial
for n in 1, 2:
    task(partial(int, n), "number")
"""

ONE_NAME = """
@task
def function():
    return 1

@task
def function():
    return 2
"""

FINE = """
class Service:
    def method(self):
        return 1

@task
@task
def function():
    return VALUE

service = Service()
task(service.method)
task(service.method)

def make(n):
    def made():
        return n
    task(made, f"made{n}")

make(1)
make(2)
"""


class Module:
    """A module, run from its source as an import does it: each run compiles it."""

    def __init__(self, registry, file="/app/tasks.py"):
        self.registry = registry
        self.file = file
        self.names = {}

    def run(self, source, name="tasks"):
        def task(function, name=None):
            self.registry.add(function, name)
            return function

        self.names |= {"task": task, "__name__": name}
        exec(compile(source, self.file, "exec"), self.names)


class OriginTests(SynchronousTestCase):
    def setUp(self):
        self.registry = Registry()

    def test_two_functions_of_one_name_are_refused_with_both_places(self):
        for source, lines in [
            (DECORATED, (7, 12)),
            (SAME_LINE, (7,)),
            (LAMBDAS, (3,)),
            (METHODS, (6, 7)),
            (PARTIALS, (4,)),
            (ONE_NAME, (2, 6)),
        ]:
            error = self.assertRaises(ValueError, Module(Registry()).run, source)
            for line in lines:
                self.assertIn(f"/app/tasks.py:{line}", str(error))
            self.assertIn("@task(name=…)", str(error))

    def test_for_a_decorator_the_error_names_functools_wraps(self):
        error = self.assertRaises(ValueError, Module(self.registry).run, DECORATED)
        self.assertIn("functools.wraps", str(error))
        error = self.assertRaises(ValueError, Module(Registry()).run, ONE_NAME)
        self.assertNotIn("functools.wraps", str(error))

    def test_a_module_that_is_reloaded_replaces_its_functions(self):
        module = Module(self.registry)
        module.names["VALUE"] = 1
        module.run(FINE)
        module.names["VALUE"] = 2
        module.run("# edited: other lines\n" + FINE)
        self.assertEqual(self.registry["function"].callable(), 2)
        self.assertIs(self.registry["function"].callable, module.names["function"])
        self.assertEqual(len(self.registry), 4)

    def test_a_file_that_is_imported_under_two_names_replaces_its_functions(self):
        for name in "tasks", "package.tasks":
            module = Module(self.registry)
            module.names["VALUE"] = name
            module.run(FINE, name)
        self.assertEqual(self.registry["function"].callable(), "package.tasks")

    def test_two_files_do_not_replace_each_others_functions(self):
        Module(self.registry, "/app/one.py").run("@task\ndef function(): return 1")
        error = self.assertRaises(
            ValueError, Module(self.registry, "/app/two.py").run, "@task\ndef function(): return 2"
        )
        self.assertIn("/app/one.py:1", str(error))
        self.assertIn("/app/two.py:1", str(error))
        self.assertEqual(self.registry["function"].callable(), 1)

    def test_a_factory_of_another_module_may_run_again_with_its_caller(self):
        factory = Module(self.registry, "/lib/factory.py")
        factory.run("def make(n):\n    def made(): return n\n    task(made)")
        caller = Module(self.registry)
        caller.names["make"] = factory.names["make"]
        caller.run("make(1)")
        caller.run("make(2)")
        self.assertEqual(self.registry["made"].callable(), 2)
        self.assertRaises(ValueError, caller.run, "make(3)\nmake(4)")

    def test_code_that_comes_from_no_file_does_not_replace_functions(self):
        source = "@task\ndef function(): return 1"
        Module(self.registry, "<string>").run(source, "__main__")
        self.assertRaises(ValueError, Module(self.registry, "<string>").run, source, "__main__")

    def test_a_function_typed_again_at_the_prompt_replaces_the_first(self):
        sys.ps1 = ">>> "
        self.addCleanup(delattr, sys, "ps1")
        for line in 1, 2:
            Module(self.registry, f"<python-input-{line}>").run(
                f"@task\ndef function(): return {line}", "__main__"
            )
        self.assertEqual(self.registry["function"].callable(), 2)
        source = "@task\ndef function(): return 3"
        self.assertRaises(ValueError, Module(self.registry, "<string>").run, source, "plugin")

    def test_in_a_thread_no_module_runs(self):
        found = []
        thread = threading.Thread(target=lambda: found.append(Origin.current()))
        thread.start()
        thread.join()
        self.assertEqual(found, [None])

    def test_without_an_origin_a_function_replaces_only_itself(self):
        def register(function):
            try:
                self.registry.add(function, "f")
            except ValueError as error:
                errors.append(str(error))

        errors = []
        for function in plain, plain, other:
            thread = threading.Thread(target=register, args=[function])
            thread.start()
            thread.join()
        self.assertEqual(len(errors), 1)
        self.assertIn(self.registry["f"].where, errors[0])


def plain():
    return 1


def other():
    return 2
