"""Mirrors of the standard library's http package."""
