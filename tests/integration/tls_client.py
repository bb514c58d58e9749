"""A TLS client of the standard library, in a thread: what a server shows, which TLS it speaks."""

from __future__ import annotations

import http.client
import socket
import ssl

from cryptography import x509
from twisted.internet.threads import deferToThread

from tests.integration.pebble import HOST, LOOPBACK

PATIENCE = 10.0


class TLSClient:
    """One connection, which trusts anybody; each method gives a Deferred.

    Args:
        port: The port of the server.
        name: The name to ask for by SNI; None for none.
        versions: The lowest and the highest version of TLS to speak.

    Attributes:
        certificate: What the server has shown.
        version: The version of TLS that came about.
        protocol: The protocol chosen by ALPN.
    """

    def __init__(self, port, name=HOST, versions=None):
        self._port = port
        self._name = name
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self._context.check_hostname = False
        self._context.verify_mode = ssl.CERT_NONE
        self._context.set_alpn_protocols(["http/1.1"])
        if versions is not None:
            # OpenSSL has put the old versions behind its lowest level of security.
            self._context.set_ciphers("ALL:@SECLEVEL=0")
            self._context.minimum_version, self._context.maximum_version = versions
        self._http = None
        self.certificate = None
        self.version = None
        self.protocol = None

    def connect(self):
        """Connect and shake hands; fails with OSError."""
        return deferToThread(self._connect)

    def _connect(self):
        plain = socket.create_connection((LOOPBACK, self._port), PATIENCE)
        try:
            secure = self._context.wrap_socket(plain, server_hostname=self._name)
        except OSError:
            plain.close()
            raise
        self.certificate = x509.load_der_x509_certificate(secure.getpeercert(binary_form=True))
        self.version = secure.version()
        self.protocol = secure.selected_alpn_protocol()
        self._http = http.client.HTTPConnection(LOOPBACK, self._port)
        self._http.sock = secure
        # A request on a new connection would say nothing about this one.
        self._http.auto_open = 0
        return self

    def get(self, path="/nothing"):
        """Make a request on this connection and give its status and its headers."""
        return deferToThread(self._get, path)

    def _get(self, path):
        self._http.request("GET", path, headers={"Host": HOST})
        response = self._http.getresponse()
        response.read()
        return response.status, {name.lower(): value for name, value in response.getheaders()}

    def close(self):
        """Close the connection."""
        if self._http is not None:
            self._http.close()


async def shown_by(port, name=HOST):
    """Give the certificate that a server shows to a new connection."""
    client = await TLSClient(port, name).connect()
    client.close()
    return client.certificate
