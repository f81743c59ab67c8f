"""Descriptions of stores: which kinds there are, and that no password is shown."""

from twisted.trial.unittest import SynchronousTestCase

from taskd.store.descriptions import is_postgres, without_password, wrong_kind

SECRETS = (
    "postgresql://taskd:pass/w@rd@db.example/tasks",
    "postgres://taskd:pass/w@rd@[::1]:5433/tasks?sslmode=require",
    "postgres://db/tasks?user=taskd&password=pass/w@rd&sslmode=require",
    "postgres:host=db password=pass/w@rd dbname=tasks",
    r"postgres:host=db password = 'pass/w@rd \' and more' dbname=tasks",
    "postgres:host=db sslpassword='pass/w@rd",
    "pogstres://taskd:pass/w@rd@db/tasks",
)


class DescriptionTests(SynchronousTestCase):
    def test_no_password_is_shown(self):
        for secret in SECRETS:
            for shown in without_password(secret), wrong_kind(secret):
                self.assertNotIn("pass/w", shown)
                self.assertIn("db" if "::1" not in secret else "[::1]:5433", shown)

    def test_what_has_no_password_is_shown_as_it_is(self):
        for plain in "memory", "sqlite:/srv/a@b:c.db", "postgres:dbname=tasks", "postgres://me@db/tasks":
            self.assertEqual(without_password(plain), plain)

    def test_a_database_has_a_name(self):
        for description in "postgres:dbname=tasks", "postgresql://db/tasks", "postgres:///tasks":
            self.assertTrue(is_postgres(description))
        for description in "postgres:", "postgresql:", "postgres", "sqlite:postgres:", "memory":
            self.assertFalse(is_postgres(description))
