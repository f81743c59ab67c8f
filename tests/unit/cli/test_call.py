"""The arguments of `taskd call`."""

from twisted.trial.unittest import SynchronousTestCase

from taskd.cli.call import parse_arguments
from taskd.functions.descriptions import ParameterInfo
from taskd.functions.kinds import Kind
from taskd.rows.conversion import TextConverter


def converter(*integers):
    """A converter for a function whose parameters of these names are integers."""
    parameters = {name: ParameterInfo([Kind("integer")]) for name in integers}
    return TextConverter(parameters, lambda name, text: f"{name}:={text}")


class ArgumentsTests(SynchronousTestCase):
    def test_text_is_converted_as_the_parameter_asks(self):
        parsed = parse_arguments(["a=1", "b=1", "c=x=y", "d="], converter("a", "class"))
        self.assertEqual(parsed, {"a": 1, "b": "1", "c": "x=y", "d": ""})

    def test_json_is_passed_on_unchanged(self):
        parsed = parse_arguments(["a:=[1, null]", 'b:="="'], converter("a"))
        self.assertEqual(parsed, {"a": [1, None], "b": "="})

    def test_keywords_are_argument_names_on_the_wire(self):
        self.assertEqual(
            parse_arguments(["from_=a", "class=3"], converter("class")), {"from": "a", "class": 3}
        )

    def test_an_argument_that_cannot_be_used_is_named(self):
        for arguments, words in (
            (["name"], "'name'"),
            (["=x"], "'=x'"),
            ([":=1"], "':=1'"),
            (["a=1", "a=2"], "a is given twice"),
            (["from=1", "from_=2"], "from is given twice"),
            (["a:=nonsense"], "'a:=nonsense'"),
            (["a:=" + "[" * 100_000], "nested too deeply: more than 254 levels"),
        ):
            error = self.assertRaises(ValueError, parse_arguments, arguments, converter())
            self.assertIn(words, str(error))
