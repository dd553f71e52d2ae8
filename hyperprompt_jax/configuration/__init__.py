"""Configuration by gin: files and bindings, parsed with clear errors."""
