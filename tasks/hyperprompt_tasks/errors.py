"""What a user of the tasks can get wrong, one class each; every message is one line."""


class DataError(ValueError):
  """A data folder, file or line is not what the official files hold."""


class VocabularyError(ValueError):
  """A vocabulary cannot be read."""


class UnknownNameError(ValueError):
  """No task list is known for the name of a SeqIO task or mixture."""
