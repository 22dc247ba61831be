"""The one exception that means: the input is wrong, and here is what to do about it."""

from __future__ import annotations

MOST = 1500


class InputError(ValueError):
    """Wrong input from outside: a file, a flag, a model name.

    The message is one clear sentence that names the place (file and line where there are such)
    and the remedy. Scripts turn it into that sentence and exit code 2.
    """

    def __init__(self, message: str = "") -> None:
        super().__init__(shortened(message))


def shortened(message: str) -> str:
    """Cut the middle out of a message that a value in it made longer than 1,500 characters: place and remedy stay.

    >>> len(shortened("place: " + "x" * 9999 + "; remedy"))
    1403
    """
    return message if len(message) <= MOST else f"{message[:900]} … {message[-500:]}"
