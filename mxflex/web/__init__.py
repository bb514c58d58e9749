"""HTTP: requests are read, the gateway is called, answers are rendered.

Imports: `mxflex.gateway`, the messages of `mxflex.wire` (for their JSON form), `mxflex.errors`,
Twisted, Klein, werkzeug. No rule of the product lives here.

Begin with `app` (the routes; `routes` calls them), then `access` and `fields` (what a request
says), `render` (answers and errors), `eventstream` (an open stream), `openapi` (the API
for programs), `static` (the html folder), `site` (below it all).

How events get to sockets: `fastpath` (to one), `audience` (to all at once), `http2` and `secure`
(where there is TLS), `eventjson` and `listings` (what they say).
"""
