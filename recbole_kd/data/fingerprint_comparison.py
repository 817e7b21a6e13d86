"""Comparison of two fingerprints of data; it needs neither the data nor RecBole."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

CAUSES = {
    "users": "the filtering of the data (user_inter_num_interval, val_interval, ...) or the file itself differs",
    "items": "the filtering of the data (item_inter_num_interval, val_interval, ...) or the file itself differs",
    "interactions": "the interactions or their filtering differ",
    "train": "the split differs (time_order, or eval_args: split, order or group_by; for a random order also the seed)",
    "valid": "the split differs (time_order, or eval_args: split, order or group_by; for a random order also the seed)",
    "test": "the split differs (time_order, or eval_args: split, order or group_by; for a random order also the seed)",
    "histories": (
        "the times of the interactions differ (or, in data without times, the file's order), "
        "and a model of histories learns from them"
    ),
}


def without_histories(fingerprint: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fingerprint of the same data for a model that does not read histories."""
    return {name: part for name, part in fingerprint.items() if name != "histories"}


def first_mismatch(own: Mapping[str, Any], other: Mapping[str, Any]) -> str | None:
    """Return the first part, a key of CAUSES, in which two fingerprints differ, or None."""
    return next((part for part in CAUSES if part in own and part in other and own[part] != other[part]), None)


def describe_mismatch(own: Mapping[str, Any], other: Mapping[str, Any]) -> str | None:
    """Return one clause on the first difference of two fingerprints and its likely cause.

    None if they agree.
    """
    part = first_mismatch(own, other)
    if part is None:
        return None
    count = {"users": "n_users", "items": "n_items"}.get(part)
    left = f"{own.get(count)} ids, {own[part]}" if count else own[part]
    right = f"{other.get(count)} ids, {other[part]}" if count else other[part]
    return f"its {part} are {left}, here they are {right}; {CAUSES[part]}"
