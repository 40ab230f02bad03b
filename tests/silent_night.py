"""A night that says one line and then does nothing for ever."""

import signal


def command() -> None:
    print("begun", flush=True)
    signal.pause()
