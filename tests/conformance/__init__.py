"""The websocket conformance suite: ``make conformance``."""
