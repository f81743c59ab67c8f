"""The store in a PostgreSQL database, which many nodes may share. Nothing else imports psycopg."""

from taskd.store.postgres.store import PostgresStore

__all__ = ["PostgresStore"]
