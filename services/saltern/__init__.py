"""Saltern's platform in plain Python over Redis; it never imports Salt."""
