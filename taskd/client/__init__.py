"""Calling tasks from a Twisted program: `TaskClient`."""

from taskd.client.twisted import TaskClient

__all__ = ["TaskClient"]
