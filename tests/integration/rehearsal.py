"""Plays calls step by step on a whole daemon, and tells what its clients see of each step."""

from __future__ import annotations

import itertools

from tests.integration.streams import SentEvent

# Who looks on, by extension.
LOGINS = {"3095": "alexey", "3044": "emma"}
PASSWORD = "demo"
TOPICS = "?topics=calls,contacts,status"


class Rehearsal:
    """A daemon whose MX is ruled by a test, with a client for each of two extensions.

    Attributes:
        running: The daemon (`tests.integration.daemons.Running`).
        control: Its MX.
        tokens: The token of each extension.
        streams: The event stream of each extension, with all topics.
    """

    def __init__(self, running, control, tokens, streams):
        self.running = running
        self.control = control
        self.tokens = tokens
        self.streams = streams
        self._seen = dict.fromkeys(streams, 0)
        self._marks = itertools.count(1)

    @classmethod
    async def begin(cls, daemon, control):
        """Start it, log both people in, and open their streams."""
        account = control.service.scenario.account
        running = await daemon(
            simulator=control.mx,
            mx={"login": account.login, "password": account.password},
            numbers={"country": "US"},
        )
        tokens = {ext: await running.log_in(login, PASSWORD) for ext, login in LOGINS.items()}
        streams = {
            ext: await running.open_stream(token, query=TOPICS) for ext, token in tokens.items()
        }
        rehearsal = cls(running, control, tokens, streams)
        await rehearsal.news()
        return rehearsal

    async def news(self):
        """Give the events of each stream since the last time, all that are on their way included.

        Whatever one stream gets comes in one row: what is told last marks the end of the rest.
        """
        mark = f"mark {next(self._marks)}"
        await self.control.post("/contacts/3101", {"note": mark})
        news = {}
        for ext, stream in self.streams.items():
            await stream.when(lambda stream=stream: any(map(_is(mark), stream.events)))
            events = stream.events[self._seen[ext] :]
            self._seen[ext] = len(stream.events)
            news[ext] = [event for event in events if not _is(mark)(event)]
        return news

    async def step(self, step):
        """Let one step of a script happen, and give what each stream got of it."""
        await self.control.post("/steps", step)
        return await self.news()

    async def calls(self, ext):
        """Give the calls of an extension."""
        reply = await self.running.get("/api/calls", token=self.tokens[ext])
        return reply.json["calls"]


def _is(mark):
    def look(event: SentEvent):
        return event.name == "ContactEvent" and event.json["contact"].get("note") == mark

    return look
