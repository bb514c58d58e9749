"""`twistd mxflex` and `twistd mxsim`.

The modules are named as text: `twistd` reads this file whatever it is asked to run, and no other
command should import MXFlex. This folder and the one above it must never hold an `__init__.py`: it
would take the place of Twisted's own.
"""

from twisted.application.service import ServiceMaker

mxflex = ServiceMaker(
    "MXFlex", "mxflex.tap", "The web face of a Zultys MX telephone server.", "mxflex"
)
mxsim = ServiceMaker(
    "MXFlex simulator",
    "mxflex.simulator.tap",
    "A simulated MX to develop and test against.",
    "mxsim",
)
