"""The gateway as a twisted.web resource."""

from taskd.web.root import Root

__all__ = ["Root"]
