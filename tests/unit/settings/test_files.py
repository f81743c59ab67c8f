"""Configuration files: which one counts, its contents, and the texts of its errors."""

from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from taskd.settings.files import find_file, read_file
from taskd.settings.given import SettingError


class FileTests(SynchronousTestCase):
    def setUp(self):
        self.folder = Path(self.mktemp()).absolute()
        self.folder.mkdir()

    def write(self, text, name="taskd.toml"):
        (self.folder / name).write_text(text)

    def texts(self):
        file = find_file(str(self.folder))
        return {name: given.texts for name, given in file.given.items()}

    def reason(self, text, name="taskd.toml"):
        self.write(text, name)
        return str(self.assertRaises(SettingError, find_file, str(self.folder)))

    def test_without_a_file_there_is_none(self):
        self.assertIsNone(find_file(str(self.folder)))

    def test_values_may_be_texts_numbers_flags_and_arrays(self):
        self.write(
            'app = "tasks"\nlisten = ["tcp:1", "unix:a b"]\nworkers = 3\nidle = 1.5\nreload = true\n'
            'max-memory = "500M"\nmax-buffered = 300000000\n'
        )
        self.assertEqual(
            self.texts(),
            {
                "app": ["tasks"],
                "listen": ["tcp:1", "unix:a b"],
                "workers": ["3"],
                "idle": ["1.5"],
                "reload": ["true"],
                "max-memory": ["500M"],
                "max-buffered": ["300000000"],
            },
        )

    def test_a_table_of_the_projects_file_counts(self):
        self.write('[project]\nname = "shop"\n[tool.taskd]\napp = "shop.tasks"\n', "pyproject.toml")
        self.assertEqual(self.texts(), {"app": ["shop.tasks"]})

    def test_the_own_file_comes_before_the_projects_file(self):
        self.write('app = "a"\n')
        self.write('[tool.taskd]\napp = "b"\n', "pyproject.toml")
        self.assertEqual(self.texts(), {"app": ["a"]})

    def test_a_projects_file_that_is_not_about_options_is_ignored_even_if_it_is_broken(self):
        for text in "[project]\nname = 'shop'\n", "[project\n", "[tool.taskd]\n", "# taskd\n":
            self.write(text, "pyproject.toml")
            self.assertIsNone(find_file(str(self.folder)))

    def test_an_unknown_key_is_named_with_its_line_and_the_nearest(self):
        self.assertEqual(
            self.reason('app = "a"\n\nmax_quue = 3\n'),
            "taskd.toml:3: there is no option max_quue; did you mean max-queue?",
        )
        self.assertEqual(self.reason("zzzz = 1\n"), "taskd.toml:1: there is no option zzzz")

    def test_a_line_is_that_of_the_key_in_its_own_table(self):
        self.assertEqual(
            self.reason("[other]\nwrokers = 1\n[tool.taskd]\nidle = 1\nwrokers = 1\n", "pyproject.toml"),
            "pyproject.toml:5: there is no option wrokers; did you mean workers?",
        )

    def test_a_table_in_the_own_file_is_refused_with_the_reason(self):
        self.assertEqual(
            self.reason('app = "a"\n[server]\nidle = 3\n'),
            "taskd.toml:2: there is no table [server]: options stand at the top, outside of tables",
        )

    def test_the_table_of_the_projects_file_must_be_one(self):
        self.assertIn("tool.taskd is a table", self.reason("tool.taskd = 3\n", "pyproject.toml"))

    def test_a_value_of_another_type_is_refused(self):
        for text, reason in (
            ("listen = 12345\n", "listen is a text, or an array of texts, not 12345"),
            ("listen = [12345]\n", "listen is a text, or an array of texts, not [12345]"),
            ("workers = [1, 2]\n", "workers is one value, a text or a number, not [1, 2]"),
            ("workers = true\n", "workers is one value, a text or a number, not true"),
            ("reload = 'yes'\n", "reload is true or false, not 'yes'"),
            ("listen = []\n", "listen is an empty array: leave it out, or write none"),
            ("app = []\n", "app is an empty array: leave it out"),
        ):
            self.assertEqual(self.reason(text), f"taskd.toml:1: {reason}")

    def test_a_file_that_is_no_toml_is_refused_with_its_line(self):
        self.assertIn("taskd.toml is not TOML: ", reason := self.reason("app = \n"))
        self.assertIn("line 1", reason)
        (self.folder / "taskd.toml").write_bytes(b"app = '\xff'\n")
        error = self.assertRaises(SettingError, find_file, str(self.folder))
        self.assertIn("taskd.toml: byte 7 is not UTF-8", str(error))

    def test_a_directory_by_that_name_cannot_be_read(self):
        (self.folder / "taskd.toml").mkdir()
        error = self.assertRaises(SettingError, find_file, str(self.folder))
        self.assertIn("taskd.toml cannot be read: Is a directory", str(error))

    def test_a_named_file_must_exist(self):
        error = self.assertRaises(SettingError, read_file, "a.toml", str(self.folder), "--config")
        self.assertEqual(str(error), f"--config a.toml: there is no such file ({self.folder}/a.toml)")

    def test_a_named_file_may_have_any_name_and_place(self):
        self.write("idle = 3\n", "other.conf")
        given = read_file("other.conf", str(self.folder), "--config").given["idle"]
        self.assertEqual((given.texts, given.where), (["3"], "other.conf:1: idle"))
        self.write("[tool.taskd]\nidle = 4\n", "pyproject.toml")
        path = str(self.folder / "pyproject.toml")
        self.assertEqual(read_file(path, "/", "--config").given["idle"].texts, ["4"])
