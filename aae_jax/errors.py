"""The one exception that means "the user can fix this"."""

from collections.abc import Callable
from typing import Any


class UserError(ValueError):
    """A mistake in a config, a file or an argument, said in one line.

    `launch.py` prints it without a traceback; anything else is a bug and shows one.
    """


def in_one_line(field: str, function: Callable[..., Any], *arguments: Any) -> Any:
    """Calls a function that a config's field names; whatever it raises is one line.

    Raises:
        UserError: naming the field and what was raised.
    """
    try:
        return function(*arguments)
    except UserError:
        raise
    except Exception as error:  # the user's code may raise whatever it likes
        reason = " ".join(str(error).split())[:300]
        raise UserError(f"{field} fails with {type(error).__name__}: {reason}") from error


class PeerLost(UserError):
    """Another process of the run has died; nothing that needs it, closing included, can end."""
