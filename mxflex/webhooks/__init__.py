"""Webhooks: events are posted to receivers elsewhere, signed, in order, and not lost by a restart.

`dispatch` hears of each event from the hub and decides what is sent when; `message` writes it;
`queue` keeps it in a file, by way of the thread of `mxflex.disk`; `delivery` posts it, signed by
`signing`, on what `connections` makes.
This room sees the gateway, and what is below it; it knows neither the routes of the API nor how
events look in JSON.
"""
