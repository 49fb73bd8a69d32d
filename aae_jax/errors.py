"""The exception that means "the user can fix this"."""

from collections.abc import Callable
from typing import Any


class UserError(ValueError):
    """A mistake in a config, a file or an argument, described in one line.

    `launch.py` prints it without a traceback. Any other exception is a bug and shows its traceback.
    """


def in_one_line(field: str, function: Callable[..., Any], *arguments: Any) -> Any:
    """Calls a function that a config's field names; turns any exception into one line.

    Raises:
        UserError: the function failed; the message names the field and the exception.
    """
    try:
        return function(*arguments)
    except UserError:
        raise
    except Exception as error:  # the user's code may raise anything
        reason = " ".join(str(error).split())[:300]
        raise UserError(f"{field} fails with {type(error).__name__}: {reason}") from error


class PeerLost(UserError):
    """Another process of the run has died; whatever waits for it, even closing, never ends."""
