"""What MXFlex costs, beside nginx with nchan and beside the least that any server must do.

`make bench` runs it all in some minutes, `make bench-quick` a part of it in a minute or two.
`docs/performance.md` is the manual.

    native/         two programs in C: `load.c`, the readers; `floor.c`, the least a server can be
    plan.py         what is measured, in full and quickly
    sample.py       the event and the company that all is measured with
    machine.py      where the figures come from
    processes.py    other programs: lines to and from them, their processor time and memory
    source.py       a program of its own: makes events at a pace; plays the MX, or a publisher
    peers.py        starts MXFlex, nginx with nchan, or the floor, each with its source
    generator.py    the readers, as seen from here
    selfcheck.py    shows that the readers notice what they must
    fanout.py       events to many streams: processor time, latency, memory
    api.py          `/api/contacts` and `/api/login`
    talk.py         a program of its own: what a login asks of the MX, without the rest of it
    encoding.py     one event from the MX's bytes to the text of a stream
    results.py      what was measured, and its medians
    tables.py       the results as text, with ratios, and the targets
    plots.py        the results as pictures
    where.py        in whose code a server spends its time: `make where`
    document.py     the results into docs/performance.md
    soak/           an hour in which the MX fails and clients come and go: `make soak`
"""
