"""The MX protocol without input or output: bytes to frames to typed messages, and back.

Nothing here knows Twisted, a clock, a socket or a log, so every rule of the protocol can be tested
with plain values. Imports: the standard library, attrs, and `mxflex.errors`.

Begin with `connection` (what a peer of the protocol may do), then `messages` (what can be said),
`framing` (the 8-byte header) and `xmltext` (the only user of an XML parser). `docs/mx-protocol.md`
describes the protocol itself.
"""
