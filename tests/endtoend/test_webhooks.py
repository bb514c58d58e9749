"""Webhooks of the installed daemon: it is killed again and again, and nothing is lost."""

from __future__ import annotations

import json
import ssl
import threading
from base64 import b64encode
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from cryptography.hazmat.primitives import serialization
from standardwebhooks.webhooks import Webhook

from mxflex.simulator.certificate import Certificate
from tests.endtoend.stage import LOOPBACK, eventually

SECRET = "whsec_" + b64encode(b"thirty-two bytes that are a key.").decode()
KILLS = 3


class Receiver:
    """An HTTPS server in threads of its own, by the standard library alone.

    Args:
        folder: Where its certificate is kept.

    Attributes:
        works: Whether it takes what is posted; else it answers 500.
        refusals: How often it has not taken what was posted.
        refused: The bodies that it has not taken, by their ids.
        taken: The same for those that it has taken, in their order.
        times: How often it has taken each.
        problems: What was wrong with requests.
    """

    def __init__(self, folder):
        made = Certificate.issue("receiver", LOOPBACK)
        self.ca_file = folder / "receiver.pem"
        key = made.key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        self.ca_file.write_bytes(made.pem + key)
        self.works = True
        self.refusals = 0
        self.refused, self.taken, self.times, self.problems = {}, {}, {}, []
        self._lock = threading.Lock()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                body = self.rfile.read(int(self.headers["content-length"]))
                self.send_response(204 if receiver.take(self.headers, body) else 500)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_):
                """Say nothing."""

        self._server = ThreadingHTTPServer((LOOPBACK, 0), Handler)
        # A client that is killed is no error of the server's.
        self._server.handle_error = lambda *_: None
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.ca_file)
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()
        self.hook = {
            "name": "crm",
            "url": f"https://{LOOPBACK}:{self._server.server_port}/",
            "secret": SECRET,
            "extensions": ["3095"],
            "ca_file": str(self.ca_file),
        }

    def reasons(self):
        """Give the reasons of the gaps that it has taken, in their order."""
        messages = [json.loads(body) for body in list(self.taken.values())]
        return [message["data"]["reason"] for message in messages if message["type"] == "gap"]

    def take(self, headers, body):
        """Check a message and keep it, and tell whether it is taken."""
        with self._lock:
            message_id = headers["webhook-id"]
            try:
                Webhook(SECRET).verify(body, dict(headers.items()))
            except Exception as error:
                self.problems.append(repr(error))
            known = self.refused.get(message_id) or self.taken.get(message_id) or body
            if body != known:
                self.problems.append(f"{message_id} has another body now")
            if not self.works:
                self.refusals += 1
                self.refused[message_id] = body
                return False
            self.taken.setdefault(message_id, body)
            self.times[message_id] = self.times.get(message_id, 0) + 1
            return True

    def close(self):
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture
def receiver(tmp_path):
    receiver = Receiver(tmp_path)
    yield receiver
    receiver.close()


def test_killed_again_and_again(place, receiver):
    """Whatever a receiver was offered before a kill comes again after it, whole and in order.

    Nobody is logged in. The process is killed while messages wait, and while they go out.
    """
    place.configure(webhooks=[receiver.hook])
    place.mxsim()
    for _ in range(KILLS):
        receiver.works = False
        mxflex = place.mxflex()
        # It is known to fail; what has come since waits.
        refusals = receiver.refusals
        eventually(lambda before=refusals: receiver.refusals >= before + 3)
        receiver.works = True
        taken = len(receiver.taken)
        eventually(lambda before=taken: len(receiver.taken) > before)
        mxflex.kill()
    mxflex = place.mxflex()
    eventually(lambda: receiver.refused.keys() <= receiver.taken.keys())
    # One gap waits for the one before it, and that for its next attempt.
    eventually(lambda: receiver.reasons().count("restart") >= KILLS)
    count = len(receiver.taken)
    eventually(lambda: len(receiver.taken) >= count + 4)
    mxflex.stop()
    assert receiver.problems == []
    calls = {}
    for body in receiver.taken.values():
        message = json.loads(body)
        if message["type"] != "gap":
            calls.setdefault(message["data"]["callId"], []).append(message["type"])
    # Where a call had its middle in the time without us, its end may be missing, but never out of
    # order.
    both = ["DeliveredEvent", "ConnectionClearedEvent"]
    assert all(types in (both, both[:1], both[1:]) for types in calls.values()), calls
    assert both in calls.values()
    assert receiver.reasons().count("restart") == KILLS


def test_stopped_in_order(place, receiver):
    """A daemon whose receiver is down stops in time, and keeps what waits."""
    receiver.works = False
    place.configure(webhooks=[receiver.hook])
    place.mxsim()
    mxflex = place.mxflex()
    eventually(lambda: receiver.refusals >= 3)
    mxflex.stop()
    receiver.works = True
    mxflex = place.mxflex()
    eventually(lambda: receiver.refused.keys() <= receiver.taken.keys())
    mxflex.stop()
    assert receiver.problems == []
