"""A quiet simulated MX that tests rule over HTTP, as tests of integrators do."""

from __future__ import annotations

import json

import treq
from twisted.internet import reactor
from twisted.web.client import Agent, HTTPConnectionPool

from tests.integration.raw_http import Reply

OUTSIDE, EXT = "+12025550104", "3095"
# Whatever a test waits for comes within this time, in seconds, or the test fails.
PATIENCE = 10.0


class Control:
    """A quiet simulated MX and its control API.

    Attributes:
        service: The simulator.
        mx: Its MX.
    """

    def __init__(self, service):
        self.service = service
        self.mx = service.mx
        self._pool = HTTPConnectionPool(reactor, persistent=False)
        self._client = treq.client.HTTPClient(Agent(reactor, pool=self._pool))

    async def ask(self, method, path, body=None, *, headers=None, data=b""):
        """Make a request, with a value as JSON, or with bytes and headers as they are."""
        headers = dict(headers or {})
        if body is not None:
            data = json.dumps(body).encode()
            headers.setdefault("Content-Type", "application/json")
        control = self.service.control
        response = await self._client.request(
            method, f"http://{control.host}:{control.port}{path}", headers=headers, data=data
        ).addTimeout(PATIENCE, reactor)
        content = await treq.content(response)
        return Reply(status=response.code, headers=response.headers, body=content)

    async def get(self, path):
        """Give what a path shows."""
        reply = await self.ask("GET", path)
        assert reply.status == 200, reply
        return reply.json

    async def post(self, path, body=None, status=200):
        """Do something that works."""
        reply = await self.ask("POST", path, body)
        assert reply.status == status, reply
        return reply.json if reply.body else None

    async def refused(self, status, path, body=None):
        """Do something that does not work, and give the reason."""
        reply = await self.ask("POST", path, body)
        assert reply.status == status, reply
        assert reply.json["code"] == status
        return reply.json["error"]

    async def ring(self, caller=OUTSIDE, to=EXT):
        """Let a telephone ring and give the path of the call."""
        call = await self.post("/calls", {"from": caller, "to": to}, 201)
        return f"/calls/{call['id']}"

    async def talk(self, caller=OUTSIDE, to=EXT):
        """Let somebody call, and be answered; give the path of the call."""
        path = await self.ring(caller, to)
        await self.post(f"{path}/answer")
        return path

    async def states(self, path):
        """Give the state of each party of a call."""
        call = await self.get(path)
        return {party["number"]: party["state"] for party in call["parties"]}
