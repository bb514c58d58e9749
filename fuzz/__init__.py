"""Bytes from strangers, in numbers: harnesses for atheris, and the inputs that are kept.

    frames.py          the stream of bytes between an MX and a client, read by both ends
    messages.py        one XML text: what it says, how it is written again, the JSON of an event
    configuration.py   the text of a configuration and the environment
    engine.py          one harness under atheris
    replay.py          one harness with inputs from files; needs no atheris
    __main__.py        the harnesses side by side, for some seconds each
    corpus/            for each harness the inputs that are kept; tests/unit replays them

A harness has one function, `check`. It returns when its promise holds for the bytes, and raises
whatever shows that it does not. README.md tells how to run them and what to do with a finding.
"""

TARGETS = ("frames", "messages", "configuration")
