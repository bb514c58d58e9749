"""Certificates for the web side: got from an ACME server, or given by the administrator.

Imports: `mxflex.disk`, `mxflex.errors`, Twisted, txacme, treq, josepy, cryptography. Nothing here
knows the MX or the routes of the API.

Begin with `issuing` (a certificate is kept fresh), then `acme` (RFC 8555 on the wire), `store` (the
file on disk), `context` (what TLS connections use), `responder` (the http-01 challenge) and `files`
(a certificate of one's own).
"""
