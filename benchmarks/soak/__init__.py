"""An hour with an MX that fails every minute and clients that come and go: nothing may be lost.

`make soak` runs it. `docs/performance.md` says what it does and what it must show.

    __main__.py     starts everything, measures memory and descriptors, asks for the verdict
    program.py      what the two programs have in common: commands in, answers out
    mx.py           a program of its own: telephones that ring, and an MX that fails in turn
    handover.py     which events the MX has certainly handed over, and which not
    faults.py       the ways in which the MX fails
    readers.py      a program of its own: thousands of clients that come and go
    clients.py      one client, over its many connections: when it goes, how, and for how long
    connections.py  what carries a stream: HTTP/1.1, plain or in TLS, and HTTP/2
    checking.py     what one client has had of its events: order, doubles, jumps and gaps
    judging.py      what the clients had, against what the MX has sent
    flatness.py     whether a figure grows
    report.py       the verdict as a table, as JSON, and memory as a picture
    selfcheck.py    shows, before it all begins, that the readers notice what they must
"""
