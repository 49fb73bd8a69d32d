"""The one exception that means "the user can fix this"."""


class UserError(ValueError):
    """A mistake in a config, a file or an argument, said in one line.

    `launch.py` prints it without a traceback; anything else is a bug and shows one.
    """


class PeerLost(UserError):
    """Another process of the run has died; nothing that needs it, closing included, can end."""
