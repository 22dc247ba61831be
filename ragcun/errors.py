"""The one exception that means: the input is wrong, and here is what to do about it."""

from __future__ import annotations


class InputError(ValueError):
    """Wrong input from outside: a file, a flag, a model name.

    The message is one clear sentence that names the place (file and line where there are such)
    and the remedy. Scripts turn it into that sentence and exit code 2.
    """
