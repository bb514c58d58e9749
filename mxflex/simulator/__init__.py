"""A telephone server to talk to: plays an MX for the tests, for `--demo` and for `twistd mxsim`.

It sees `mxflex.wire` and `mxflex.errors` alone: it shares the messages with the client, and none of
the client's logic, so a misunderstanding on one side cannot hide on the other.

    company.py      who works there: users, services, outside numbers, and the ids of the MX
    behaviour.py    how this MX behaves where real ones differ: the switches
    switchboard.py  the call model: operations in, events for each device out; pure
    faults.py       how it misbehaves when a test wants it to
    rendering.py    message to XML text, in the spelling that the switches choose
    certificate.py  a certificate of its own making, and TLS contexts
    session.py      one connection: login, rights, commands
    server.py       `SimulatedMX`: listens, joins sessions and switchboard, serves the tests
    scenario.py     YAML to company, switches and scripts
    playing.py      lets scripts and single steps happen
    demo.py         the built-in scenario
    flows.py        its scripts that are played on demand, one for each way a call can go
    control.py      HTTP to act for the telephones, and to let things go wrong
    listening.py    ports that are bound before the reactor runs
    tap.py          `twistd mxsim`, and the simulator inside `twistd mxflex --demo`

Begin with `server.SimulatedMX`. `docs/simulator.md` is the manual.
"""
