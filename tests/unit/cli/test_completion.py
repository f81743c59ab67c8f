"""Completing the commands of ``taskd`` in a shell, and the files that an installation has for that."""

import contextlib

from click.testing import CliRunner
from twisted.trial.unittest import SynchronousTestCase

from taskd.cli import completing
from taskd.cli.completion import INSTALLED, script
from taskd.cli.main import main
from taskd.errors import Unreachable
from tools.share import ROOT, files


class CompletionTests(SynchronousTestCase):
    def run_command(self, *arguments, **environ):
        return CliRunner().invoke(main, arguments, prog_name="taskd", env=environ)

    def test_each_shell_gets_its_script(self):
        marks = {
            "bash": "complete -o nosort -F",
            "zsh": "#compdef taskd",
            "fish": "complete --no-files --command taskd",
        }
        self.assertEqual(set(marks), set(INSTALLED))
        for shell, mark in marks.items():
            ended = self.run_command("completion", shell)
            self.assertEqual(ended.exit_code, 0, ended.output)
            self.assertIn(mark, ended.output)
            self.assertEqual(ended.output, script(shell))

    def test_without_a_shell_the_command_says_what_to_do(self):
        ended = self.run_command("completion")
        self.assertEqual(ended.exit_code, 2)
        self.assertIn('eval "$(taskd completion bash)"', ended.output)

    def test_another_shell_is_refused_with_those_that_there_are(self):
        ended = self.run_command("completion", "tcsh")
        self.assertEqual(ended.exit_code, 2)
        self.assertIn("'bash', 'zsh', 'fish'", ended.output)

    def test_the_program_answers_the_script(self):
        ended = self.run_command(_TASKD_COMPLETE="bash_complete", COMP_WORDS="taskd compl", COMP_CWORD="1")
        self.assertEqual(ended.output, "plain,completion\n")


class FunctionNameTests(SynchronousTestCase):
    def setUp(self):
        self.asked = []
        self.functions = [
            {"name": "report", "summary": "Write a\x1b[2J\nreport."},
            {"name": "resize", "summary": ""},
            {"name": "re\nport", "summary": ""},
            {"name": "add", "summary": ""},
        ]
        test = self

        class FakeClient(contextlib.AbstractContextManager):
            def __init__(self, server, **options):
                test.asked.append(server)

            def with_options(self, **options):
                return self

            def functions(self):
                if isinstance(test.functions, Exception):
                    raise test.functions
                return test.functions

            def __exit__(self, *_):
                pass

        self.patch(completing, "Client", FakeClient)

    def complete(self, words):
        count = str(len(words.split(" ")) - 1)
        environ = {
            "_TASKD_COMPLETE": "zsh_complete",
            "COMP_WORDS": words,
            "COMP_CWORD": count,
            "TASKD_SERVER": None,
        }
        return CliRunner().invoke(main, prog_name="taskd", env=environ).output

    def test_names_of_functions_come_from_the_server(self):
        report = "plain\nreport\nWrite a\\x1b[2J report.\n"
        self.assertEqual(self.complete("taskd call rep"), report)
        self.assertEqual(self.complete("taskd list --function rep"), report)
        self.assertEqual(self.complete("taskd pause re"), report + "plain\nresize\n_\n")
        self.assertEqual(set(self.asked), {"tcp:127.0.0.1:12345"})

    def test_the_server_is_the_one_of_the_command_line(self):
        self.complete("taskd call --server unix:./s rep")
        self.complete("taskd call --via example.org:80 rep")
        self.assertEqual(self.asked, ["unix:./s", "ws://example.org:80"])

    def test_without_a_server_nothing_is_completed(self):
        for error in (Unreachable("gone"), OSError(), ValueError()):
            self.functions = error
            self.assertEqual(self.complete("taskd call rep").strip(), "")


class InstalledFilesTests(SynchronousTestCase):
    def test_the_manual_page_has_each_command_and_each_option(self):
        page = files()["share/man/man1/taskd.1"].replace("\\-", "-")
        for name, command in main.commands.items():
            self.assertIn(f".SS taskd {name} ", page)
            for option in command.params:
                if option.param_type_name == "option":
                    self.assertIn(f".B {option.opts[0]}", page)

    def test_the_installed_files_are_in_the_repository(self):
        for path in files():
            self.assertTrue((ROOT / path).is_file(), path)
