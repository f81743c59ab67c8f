"""Keeps a server from looking by itself at what other nodes do: it has to be woken."""

import sys

if any("twistd" in argument for argument in sys.orig_argv):
    from taskd.durable import elsewhere, node

    elsewhere.POLL_SECONDS = node.POLL_SECONDS = 1e6
