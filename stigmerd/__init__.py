"""A process supervisor for one machine.

The layers, from the inside out: ``core`` decides and knows no world, ``engine`` runs the
decisions as Trio tasks, ``adapters`` touch the world, ``control`` and ``cli`` talk to the operator.
"""

__version__ = "0.1.0"
