"""The client room: `TaskClient`, and the links by which it and a gateway reach task servers."""

from taskd.client.twisted import TaskClient

__all__ = ["TaskClient"]
