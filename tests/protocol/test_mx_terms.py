"""How connections to the MX are made may change at any moment, and never counts by half."""

from __future__ import annotations

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from mxflex.errors import LoginRefused
from mxflex.wire.messages import LoginFailed, LoginRequest
from tests.protocol.memory_mx import LATENCY, MemoryDialer, Network, TrustsAll, outcome_of, run

CLEAR = "swordfish"
REQUEST = LoginRequest(type="User", platform="CRM", version="1.0", user_name="anna", password=CLEAR)


class Policy(TrustsAll):
    """A peer policy that counts what it is asked."""

    def __init__(self):
        self.checked = self.remembered = 0

    def check(self, _connection):
        self.checked += 1

    def remember(self, _connection):
        self.remembered += 1


def dialer(network, *, clear_password):
    """Make a dialer whose policy counts."""
    made = MemoryDialer(network, clear_password=clear_password)
    made.policy = Policy()
    return made


def wants_clear(network):
    """Let the MX refuse each hashed password, and ask for the clear one."""

    def refuse(peer, received):
        answer = LoginFailed(code=4, api_version=11, text="in clear, please")
        peer.reply(received.invoke_id, answer)

    network.habits[LoginRequest] = refuse


def passwords(network):
    """Give how often the clear password was sent, and how often another one."""
    sent = [
        each.command.password
        for peer in network.peers
        for each in peer.received
        if isinstance(each.command, LoginRequest)
    ]
    clear = sent.count(CLEAR)
    return clear, len(sent) - clear


@pytest.mark.parametrize("moment", [0, 0.5, 1, 1.5, 2, 2.5, 3, 3.5, 4])
def test_a_login_keeps_the_terms_it_began_with(moment):
    """A peer that was checked by the terms of before is not sent what those of now would send."""
    network = Network(Clock())
    wants_clear(network)
    used = dialer(network, clear_password=False)
    before, after = used.policy, dialer(network, clear_password=True)
    outcome = outcome_of(Deferred.fromCoroutine(used.log_in(REQUEST)))
    run(network.clock, moment * LATENCY, LATENCY / 4)
    used.use(after)
    run(network.clock, 20 * LATENCY, LATENCY / 4)
    assert isinstance(outcome[0], LoginRefused)
    assert passwords(network) == (0, 1)
    assert (before.checked, before.remembered, after.policy.checked) == (1, 1, 0)
    # The next one has all of the new ones.
    outcome_of(Deferred.fromCoroutine(used.log_in(REQUEST)))
    run(network.clock, 20 * LATENCY, LATENCY / 4)
    assert passwords(network) == (1, 2)
    assert (before.checked, after.policy.checked, after.policy.remembered) == (1, 1, 1)
