"""What a run survives: kills, broken storage, long life, other versions; measured."""
