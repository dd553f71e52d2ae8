"""Programs that check the code or attack it: prose, reliability, fuzzing."""
