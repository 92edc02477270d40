"""Addresses: their secrets are left out of what is shown, whatever stands around them."""

from __future__ import annotations

from zoo.storage.address import without_secrets


def test_secrets_are_left_out_of_a_text_of_any_length() -> None:
    """The time is linear: a pattern that tried each letter as the beginning would take minutes for this text."""
    long = "x" * 500_000
    text = f"boom {long} {long}://me:HIDDEN@host/a https://me:HIDDEN@host/b 1s3://me:HIDDEN@c?token=HIDDEN {long}"
    found = without_secrets(text, {})
    assert "HIDDEN" not in found and "://host/a https://host/b 1s3://c" in found and found.endswith(long)
