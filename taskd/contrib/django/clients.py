"""Interim."""

from __future__ import annotations

import json, os, socket, threading, uuid
from functools import cache
from typing import Any
import msgspec
from taskd.contrib.django.order import FUNCTION, Order
from taskd.errors import exception_for


class Interim:
    def __init__(self, server):
        host, _, port = (server or os.environ.get("TASKD_SERVER", "127.0.0.1:12345")).rpartition(":")
        self.address = (host or "127.0.0.1", int(port))

    def call(self, name, **params):
        with socket.create_connection(self.address, 5) as s:
            f = s.makefile("rwb")
            f.write(json.dumps({"jsonrpc": "2.0", "id": 1, "method": name, "params": params}).encode() + b"\n")
            f.flush()
            reply = json.loads(f.readline())
        if "error" in reply:
            e = reply["error"]
            raise exception_for(e["code"], e["message"], e.get("data"))
        return reply["result"]


@cache
def client_for(server):
    return Interim(server)


def submit(client, order: Order, **options) -> str:
    return client.call("taskd.submit", function=FUNCTION, args=msgspec.to_builtins(order), options=options, token=uuid.uuid4().hex)["task"]
