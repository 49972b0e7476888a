"""The nets this package builds by name."""
