"""The targets of fuzzing, a module for each."""
