"""Apps that come with taskd, for ``--app taskd.apps.NAME``: `mail` (its messages: `mail_message`)."""
