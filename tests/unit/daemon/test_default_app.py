"""The log lines of a server started without --app."""

import os

from twisted.trial.unittest import SynchronousTestCase

from taskd.daemon.default_app import announcement


class AnnouncementTests(SynchronousTestCase):
    def lines(self, url=None):
        return list(announcement({} if url is None else {"TASKD_MAIL_URL": url}, "twistd -n taskd"))

    def test_the_lines_name_the_default_app_and_the_option_for_another(self):
        first, _, last = self.lines()
        self.assertIn("taskd.apps.mail", first)
        self.assertIn("twistd -n taskd --app", last)

    def test_a_maildir_is_named_by_its_absolute_path(self):
        for url, path in (
            (None, os.path.abspath("outbox")),
            ("", os.path.abspath("outbox")),
            ("maildir:/var/mail/out", "/var/mail/out"),
            ("maildir:a/b", os.path.abspath("a/b")),
        ):
            self.assertIn(f"mails go to the Maildir {path} (", self.lines(url)[1])

    def test_a_server_is_named_without_user_and_password(self):
        lines = self.lines("smtp://ann:secret@mail.example.org")
        self.assertIn("mails go to smtp://mail.example.org:587 (", lines[1])
        for word in "ann", "secret":
            self.assertNotIn(word, "".join(lines).replace("YOUR_MODULE", ""))

    def test_an_invalid_setting_is_explained_without_its_password(self):
        lines = self.lines("smtp://ann:secret@:nonsense")
        self.assertIn("every mail will fail: TASKD_MAIL_URL", lines[1])
        self.assertNotIn("secret", "".join(lines))
