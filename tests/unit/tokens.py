"""Tokens for tests: a verifier that knows what a test has given it."""

from math import inf

from taskd.auth.caller import Caller
from taskd.errors import NotAllowed
from taskd.model import Grant


def caller(owner, role="submit", functions=None, rate=None, expires=None, name=None, **grant):
    """Make a caller; more arguments are limits of its grant, and the arguments that it fixes."""
    return Caller(name or owner, Grant(owner, role, functions=functions, **grant), rate, expires)


class FakeVerifier:
    """The tokens of a test: each has the name of its caller, or is mapped to it in `callers`."""

    def __init__(self, *callers):
        self.callers = {each.name: each for each in callers}
        self.asked = []

    def verify(self, token, now):
        self.asked.append(token)
        found = self.callers.get(token)
        if found is None:
            raise NotAllowed("there is no such token", reason="unknown")
        if (found.expires or inf) <= now:
            raise NotAllowed("the token has expired", reason="expired")
        return found

    def is_valid(self, caller, now):
        return caller.name in self.callers
