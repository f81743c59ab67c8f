"""The API's operations about the task server itself."""

from __future__ import annotations

from taskd.protocol.method_names import FUNCTIONS, STATUS
from taskd.web.api.call import ApiCall, Response

__all__ = ["functions", "status"]


async def functions(call: ApiCall) -> Response:
    """List the functions that can be called."""
    return Response(200, b'{"functions":%b}' % await call.ask(FUNCTIONS))


async def status(call: ApiCall) -> Response:
    """Show what the server and each of its workers is doing."""
    return Response(200, await call.ask(STATUS))
