"""The error of a user's mistake."""


class UserError(ValueError):
  """A mistake of the user's: one line that names the thing and what to do about it.

  The command line prints the line without a traceback and exits with status 2.
  """
