"""The whole program, as its users install and run it."""
