"""A night that says one line and then does nothing for ever."""

import signal
import sys


def command() -> None:
    sys.stdout.write("begun\n")
    sys.stdout.flush()
    signal.pause()
