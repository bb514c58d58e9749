"""What MXFlex does, without XML and without HTTP: logins, tokens, calls, contacts, event streams.

Imports: `mxflex.mx`, `mxflex.wire` (the messages), `mxflex.disk`, `mxflex.errors`, Twisted, PyJWT,
phonenumbers.

Begin with `login` (a person comes), `sessions` (which extensions are watched, and until when),
`logouts` (who has gone, over restarts), `hub` and `history` (an event goes to every stream),
`calls` (what is going on, and commands), `tickets` (a stream without a token), `directory` (who is
this number?).
"""
