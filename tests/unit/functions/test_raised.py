"""The text of what an app raises: formatting it runs the app's code, which may raise anything."""

from twisted.trial.unittest import SynchronousTestCase

from taskd.functions.raised import MAX_TEXT, MAX_TYPE_NAME, encodable, one_line, text_of, type_name


def raising(error):
    """An exception whose message cannot be formatted, because `error` is raised."""

    class Unformatted(Exception):
        def __str__(self):
            raise error

    return Unformatted()


class RaisedTests(SynchronousTestCase):
    def test_an_exception_is_its_type_and_its_message(self):
        self.assertEqual(one_line(LookupError("no row")), "LookupError: no row")
        self.assertEqual(one_line(LookupError()), "LookupError")

    def test_a_type_of_a_module_has_the_name_of_the_module(self):
        self.assertEqual(type_name(SynchronousTestCase), "twisted.trial._synctest.SynchronousTestCase")
        self.assertEqual(type_name(int), "int")

    def test_an_error_in_formatting_becomes_the_text(self):
        for error in ValueError("x"), SystemExit(3), KeyboardInterrupt(), GeneratorExit(), MemoryError():
            self.assertEqual(
                text_of(raising(error)), f"its message could not be formatted: {one_line(error)}"
            )

    def test_an_error_in_formatting_need_not_be_formattable_either(self):
        text = text_of(raising(raising(ValueError("x"))))
        self.assertTrue(text.startswith("its message could not be formatted: "), text)
        self.assertTrue(text.endswith("Unformatted"), text)

    def test_a_message_that_is_formatted_without_end_is_a_text_too(self):
        class Endless(Exception):
            def __str__(self):
                return str(self)

        self.assertIn("RecursionError", text_of(Endless()))

    def test_a_message_that_is_no_str_is_a_text_too(self):
        class Number(Exception):
            def __str__(self):
                return 5

        self.assertIn("TypeError", text_of(Number()))

    def test_the_methods_of_a_subclass_of_str_are_not_used(self):
        class Text(str):
            def __getitem__(self, place):
                raise SystemExit

            isascii = encode = __len__ = __getitem__

        class Failed(Exception):
            def __str__(self):
                return Text("plain")

        self.assertIs(type(text_of(Failed())), str)
        self.assertEqual(text_of(Failed()), "plain")

    def test_a_message_is_cut_also_when_its_surrogates_are_escaped(self):
        self.assertEqual(len(text_of(ValueError("x" * 2 * MAX_TEXT))), MAX_TEXT)
        self.assertEqual(len(text_of(ValueError("\udfff" * 2 * MAX_TEXT))), MAX_TEXT)
        self.assertEqual(text_of(ValueError("\udfff ü")), "\\udfff ü")

    def test_a_metaclass_cannot_hide_the_name(self):
        class Meta(type):
            def __getattribute__(cls, name):
                raise SystemExit(name)

        class Hidden(Exception, metaclass=Meta):
            pass

        self.assertTrue(type_name(Hidden).endswith("Hidden"))

    def test_a_type_with_a_strange_module_has_its_name_alone(self):
        self.assertEqual(type_name(type("Odd", (), {"__module__": 5})), "Odd")
        bare = eval('type("Bare", (), {})', {"__builtins__": {}, "type": type})  # made in no module
        self.assertEqual(type_name(bare), "Bare")
        self.assertEqual(type_name(type("Odd", (), {"__module__": "\ud800"})), "\\ud800.Odd")

    def test_the_name_of_a_type_is_cut(self):
        self.assertEqual(len(type_name(type("x" * 1000, (), {"__module__": "builtins"}))), MAX_TYPE_NAME)

    def test_lone_surrogates_are_escaped(self):
        self.assertEqual(encodable("a\ud800b ü"), "a\\ud800b ü")
        self.assertEqual(encodable("plain"), "plain")
