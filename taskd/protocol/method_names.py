"""The names of the server's own methods, and of its notifications."""

from __future__ import annotations

from taskd.functions.wire_names import RESERVED

PING, FUNCTIONS, STATUS, CANCEL = (
    *(f"{RESERVED}ping", f"{RESERVED}functions"),
    *(f"{RESERVED}status", f"{RESERVED}cancel"),
)
SUBMIT, SUBMIT_BATCH = f"{RESERVED}submit", f"{RESERVED}submit_batch"
GET, WAIT, LIST, EVENTS = f"{RESERVED}get", f"{RESERVED}wait", f"{RESERVED}list", f"{RESERVED}events"
ATTACH, DETACH = f"{RESERVED}attach", f"{RESERVED}detach"
RETRY, WHY = f"{RESERVED}retry", f"{RESERVED}why"
RELOAD, DRAIN, STACKS = f"{RESERVED}reload", f"{RESERVED}drain", f"{RESERVED}stacks"
QUEUE, HISTORY, AUDIT = f"{RESERVED}queue", f"{RESERVED}history", f"{RESERVED}audit"
NODES = f"{RESERVED}nodes"
PAUSE, RESUME = f"{RESERVED}pause", f"{RESERVED}resume"
AUTH, WHOAMI = f"{RESERVED}auth", f"{RESERVED}whoami"
