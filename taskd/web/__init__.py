"""HTTP at the gateway's port, as a twisted.web resource: websocket upgrades, and a page."""

from taskd.web.root import Root

__all__ = ["Root"]
