"""The registry of functions, and how they are described."""

import functools
import importlib
import inspect

from twisted.trial.unittest import SynchronousTestCase

import taskd
from taskd.functions.registry import Function, Registry
from taskd.functions.stops import GRACE

# `taskd.task` is the decorator; this is the module.
registry_module = importlib.import_module("taskd.functions.registry")


class SomeClass:
    """A class, which is not a function."""

    def method(self):
        pass

    @staticmethod
    def static():
        pass

    @classmethod
    def of_the_class(cls):
        pass


class Opaque:
    """A type to which JSON cannot be converted."""


def example(a: int, from_: "str", /, b=2, *rest: float, c: int | None = None, **more) -> int:
    """Serve as an example.

    And nothing else.
    """


class TaskTests(SynchronousTestCase):
    def test_a_function_is_described_for_its_users(self):
        info = Function("x.example", example).describe()
        self.assertEqual(info.name, "x.example")
        self.assertEqual(info.summary, "Serve as an example.")
        self.assertEqual(
            info.signature,
            "x.example(a: int, from: str, /, b=2, *rest: float, c: int | None = None, **more) -> int",
        )
        self.assertEqual(list(info.parameters), ["a", "from", "b", "rest", "c", "more"])
        self.assertEqual(
            [info.parameters[name].annotation for name in ("a", "from", "b", "rest")],
            ["int", "str", "", "float"],
        )

    def test_a_task_without_a_docstring_has_no_summary(self):
        self.assertEqual(Function("f", lambda: None).describe().summary, "")

    def test_a_function_knows_whether_it_is_async(self):
        async def function():
            pass

        self.assertTrue(Function("f", function).is_async)
        self.assertTrue(Function("f", functools.partial(function)).is_async)
        self.assertFalse(Function("f", example).is_async)

    def test_a_function_knows_its_file_and_line(self):
        self.assertIn(f"{__file__}:", Function("f", example).where)
        self.assertEqual(Function("f", len).where, repr(len))


class RegistryTests(SynchronousTestCase):
    def test_a_function_is_registered_under_its_name_or_another(self):
        registry = Registry()
        self.assertEqual(len(registry), 0)
        self.assertEqual(registry.add(example).name, "example")
        self.assertEqual(registry.add(example, "mail.send").name, "mail.send")
        self.assertEqual([entry.name for entry in registry], ["example", "mail.send"])
        self.assertEqual(len(registry), 2)
        self.assertIn("mail.send", registry)
        self.assertNotIn("send", registry)
        self.assertIs(registry["example"].callable, example)

    def test_the_names_of_the_server_are_reserved(self):
        for name in "taskd.", "taskd.ping", "taskd.x.y", "":
            self.assertRaises(ValueError, Registry().add, example, name)
        for name in "taskd", "taskdx", "x.taskd.y", "Taskd.ping":
            self.assertEqual(Registry().add(example, name).name, name)

    def test_a_name_can_be_registered_only_once(self):
        registry = Registry()
        first = registry.add(example, "f")
        error = self.assertRaises(ValueError, registry.add, lambda: None, "f")
        self.assertIn("'f'", str(error))
        self.assertIn(first.where, str(error))
        self.assertIs(registry["f"], first)

    def test_the_same_function_may_be_registered_twice(self):
        registry = Registry()
        registry.add(example)
        registry.add(example)
        self.assertEqual(len(registry), 1)

    def test_only_a_function_can_be_a_task(self):
        for thing in 3, None, "example", SomeClass, Opaque():
            self.assertRaises(TypeError, Registry().add, thing, "f")

    def test_an_object_that_cannot_be_registered_is_refused_with_the_reason(self):
        for thing, words in [
            (SomeClass, "class SomeClass"),
            (classmethod(example), "method of an object"),
            (functools.partialmethod(example), "method of an object"),
            (SomeClass.method, "task(SomeClass().method)"),
            ("mail.send", "@task(name='mail.send')"),
        ]:
            error = self.assertRaises(TypeError, Registry().add, thing, "f")
            self.assertIn(words, str(error))

    def test_static_class_and_bound_methods_can_be_registered(self):
        self.assertEqual(Registry().add(SomeClass.static).name, "static")
        self.assertEqual(Registry().add(vars(SomeClass)["static"]).name, "static")
        self.assertEqual(Registry().add(SomeClass.of_the_class).name, "of_the_class")
        self.assertEqual(Registry().add(SomeClass().method).name, "method")

    def test_a_name_is_text_that_can_be_sent(self):
        self.assertRaises(TypeError, Registry().add, example, 3)
        self.assertRaises(ValueError, Registry().add, example, "half \ud800")

    def test_a_callable_without_a_name_needs_one(self):
        self.assertRaises(TypeError, Registry().add, functools.partial(example, 1))
        self.assertEqual(Registry().add(functools.partial(example, 1), "f").name, "f")

    def test_a_generator_function_can_be_a_task(self):
        def generator():
            yield 1

        async def async_generator():
            yield 1

        for function in generator, async_generator, functools.partial(generator):
            added = Registry().add(function, "f")
            self.assertEqual((added.is_async, added.may_be_async), (False, function is async_generator))

    def test_a_task_may_have_a_time_limit_and_a_grace(self):
        registry = Registry()
        plain, limited = registry.add(example, "plain"), registry.add(example, "limited", 2.5, 0)
        self.assertEqual((plain.timeout, plain.grace), (None, GRACE))
        self.assertEqual((limited.timeout, limited.grace), (2.5, 0))
        self.assertEqual((limited.describe().timeout, limited.describe().grace), (2.5, 0))

    def test_a_limit_is_a_number_of_seconds_above_zero(self):
        for timeout in 0, -1, 0.0, float("nan"), float("inf"), "3", True, []:
            error = self.assertRaises(ValueError, Registry().add, example, "f", timeout)
            self.assertIn("timeout", str(error))

    def test_a_grace_is_a_number_of_seconds_from_zero(self):
        for grace in -0.1, float("nan"), float("inf"), "3", False, []:
            error = self.assertRaises(ValueError, Registry().add, example, "f", None, grace)
            self.assertIn("grace", str(error))

    def test_compiling_resolves_every_signature(self):
        registry = Registry()
        registry.add(example)
        registry.compile()
        self.assertIn("parameters", vars(registry["example"]))

    def test_compiling_names_the_task_whose_signature_cannot_be_resolved(self):
        def opaque(a: Opaque):
            pass

        def missing(a: "Missing"):  # noqa: F821
            pass

        for function, reason in (opaque, "Opaque"), (missing, "Missing"), (max, "max"):
            registry = Registry()
            registry.add(example)
            registry.add(function, "the.task")
            error = self.assertRaises(TypeError, registry.compile)
            self.assertIn("'the.task'", str(error))
            self.assertIn(reason, str(error))
            self.assertIn(registry["the.task"].where, str(error))


class DecoratorTests(SynchronousTestCase):
    def setUp(self):
        self.registry = Registry()
        self.patch(registry_module, "registry", self.registry)

    def test_a_task_is_registered_and_the_function_unchanged(self):
        @taskd.task
        def bare():
            pass

        @taskd.task()
        def called():
            pass

        @taskd.task(name="mail.send")
        def named():
            pass

        @taskd.task(timeout=60, grace=1)
        def limited():
            pass

        names = ["bare", "called", "mail.send", "limited"]
        self.assertEqual([entry.name for entry in self.registry], names)
        self.assertEqual((self.registry["limited"].timeout, self.registry["limited"].grace), (60, 1))
        self.assertTrue(all(inspect.isfunction(function) for function in (bare, called, named)))
        self.assertIs(self.registry["mail.send"].callable, named)

    def test_a_mistake_is_reported_when_the_decorator_is_applied(self):
        self.assertRaises(ValueError, taskd.task(name="taskd.ping"), example)
        self.assertRaises(TypeError, taskd.task, SomeClass)
        self.assertRaises(ValueError, taskd.task(timeout=0), example)

    def test_hooks_are_kept_in_their_order(self):
        def first():
            pass

        def second():
            pass

        self.assertIs(taskd.on_worker_start(first), first)
        self.assertIs(taskd.on_worker_start(second), second)
        self.assertIs(taskd.on_worker_stop(second), second)
        self.assertEqual(self.registry.start_hooks, [first, second])
        self.assertEqual(self.registry.stop_hooks, [second])


class NameTests(SynchronousTestCase):
    def setUp(self):
        self.registry = Registry()

    def test_a_function_is_found_by_its_identity(self):
        self.registry.add(example, "mail.send")
        self.assertEqual(self.registry.name_of(example), "mail.send")
        for other in (SomeClass, functools.partial(example, 1), "mail.send", None):
            error = self.assertRaises(TypeError, self.registry.name_of, other)
            self.assertIn("is not registered: decorate it with @task", str(error))

    def test_a_method_is_found_though_it_is_another_object_each_time(self):
        owner = SomeClass()
        self.registry.add(owner.method)
        self.assertEqual(self.registry.name_of(owner.method), "method")
        self.assertRaises(TypeError, self.registry.name_of, SomeClass().method)

    def test_of_several_names_the_last_counts(self):
        for name in ("first", "second"):
            self.registry.add(example, name)
        self.assertEqual(self.registry.name_of(example), "second")
        self.registry.add(example, "first")
        self.assertEqual(self.registry.name_of(example), "first")

    def test_a_function_that_another_has_replaced_has_no_name_any_more(self):
        source = "def f():\n    pass\n"
        made = []
        for _ in range(2):
            names = {"__name__": "reloaded", "registry": self.registry, "made": made}
            exec(compile(source + "registry.add(f)\nmade.append(f)\n", "reloaded.py", "exec"), names)
        self.assertEqual(self.registry.name_of(made[1]), "f")
        self.assertRaises(TypeError, self.registry.name_of, made[0])


class LazyImportTests(SynchronousTestCase):
    def test_every_name_of_the_package_is_there(self):
        for name in taskd.__all__:
            self.assertTrue(callable(getattr(taskd, name)), name)
            self.assertIn(name, dir(taskd))

    def test_another_name_is_missing(self):
        error = self.assertRaises(AttributeError, getattr, taskd, "Task")
        self.assertEqual(str(error), "module 'taskd' has no attribute 'Task'")
