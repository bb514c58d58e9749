"""Talking to the MX: Twisted around the sans-IO core of `mxflex.wire`.

Imports: `mxflex.wire`, `mxflex.errors`, Twisted. Nothing here knows HTTP, tokens or streams.

Begin with `link` (the permanent server connection and what hangs on it: `monitors` and
`addressbook`), then `protocol` (one connection), `session` (how a login goes), `tls` (whom to
trust), `transport` (how bytes get there) and `verify` (the check of a person's password on a
connection of its own).
"""
