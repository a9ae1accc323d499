"""A master of its own machine: installed, upgraded, backed up and restored. See docs/production.md."""
