"""The short way from a path to its route.

Klein finds a route by werkzeug's URL map, made for patterns and virtual hosts, and hangs seven
callbacks on a Deferred even where a handler has its answer at once. That was a quarter of what a
request for the contacts costs. A path that stands in a route just as it is needs neither.
"""

from __future__ import annotations

from typing import cast

from klein import Klein
from klein.resource import KleinResource
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure
from twisted.web.iweb import IRequest
from twisted.web.resource import IResource
from twisted.web.server import NOT_DONE_YET, Request

from mxflex.web.render import has_left


class Routes(KleinResource):
    """Klein's resource, which calls the handler of a well-known path directly.

    Whatever is in no route literally takes Klein's own way: patterns, unknown paths and wrong
    methods. Handlers give bytes, None, or a resource to answer instead, now or later.

    Args:
        app: The routes and their handlers. What these raise is answered by the request itself.
    """

    def __init__(self, app: Klein) -> None:
        super().__init__(app)
        self._endpoints: dict[tuple[bytes, bytes], str] = {
            (method.encode("ascii"), rule.rule.removeprefix("/").encode("utf-8")): rule.endpoint
            for rule in app.url_map.iter_rules()
            if not rule.arguments
            for method in rule.methods or ()
        }

    # Klein states this more widely than the resources of Twisted that it stands for.
    def render(self, request: Request) -> int:  # type: ignore[override]
        """Answer a request, now or later."""
        endpoint = self._endpoints.get((request.method, b"/".join(request.postpath or ())))
        if endpoint is None:
            return cast("int", super().render(cast("IRequest", request)))
        result: object = self._app.execute_endpoint(endpoint, cast("IRequest", request))
        if isinstance(result, Deferred):
            # Whoever waits for the MX on behalf of a client that leaves is to stop.
            request.notifyFinish().addErrback(lambda _: result.cancel())
            result.addCallback(_answer, request).addErrback(_failed, request)
        else:
            _answer(cast("bytes | IResource | None", result), request)
        return NOT_DONE_YET


def _answer(result: bytes | IResource | None, request: Request) -> None:
    if has_left(request):
        return
    if result is not None and not isinstance(result, bytes):
        request.render(result)
        return
    if result:
        request.write(result)
    request.finish()


def _failed(failure: Failure, request: Request) -> None:
    request.processingFailed(failure)
