"""The API's operations about the task server itself."""

from __future__ import annotations

from functools import lru_cache

import msgspec

from taskd.functions.registry import FunctionInfo
from taskd.protocol.method_names import FUNCTIONS, STATUS
from taskd.web.api.call import ApiCall, Response
from taskd.web.api.openapi import openapi

__all__ = ["description", "functions", "status"]

MAX_DOCUMENTS = 8
"""Documents that are kept: tokens cover few different sets of functions, and each document is some 50 KiB."""


async def functions(call: ApiCall) -> Response:
    """List the functions that can be called."""
    return Response(200, b'{"functions":%b}' % await call.ask(FUNCTIONS))


async def status(call: ApiCall) -> Response:
    """Show what the server and each of its workers is doing."""
    return Response(200, await call.ask(STATUS))


async def description(call: ApiCall) -> Response:
    """Describe the API, as an OpenAPI document with the functions that can be called.

    Where tokens are asked for, it has no functions without one.
    """
    functions = b"[]" if call.exchange.lacks_token else bytes(await call.ask(FUNCTIONS))
    return Response(200, _document(functions))


@lru_cache(maxsize=MAX_DOCUMENTS)
def _document(functions: bytes) -> bytes:
    """Return the document, which changes with the functions that the caller may see alone."""
    return msgspec.json.encode(openapi(msgspec.json.decode(functions, type=list[FunctionInfo])))
