"""Calling tasks from a Twisted program: `TaskClient`."""

from taskd.client.client import TaskClient

__all__ = ["TaskClient"]
