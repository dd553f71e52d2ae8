"""Fuzzing of all that reads what users and strangers write: `make fuzz`."""
