"""The apps that come with taskd, for ``--app taskd.apps.NAME``; `mail` sends mail."""
