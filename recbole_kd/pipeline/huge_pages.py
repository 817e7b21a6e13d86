"""Huge pages for large tensors, if the system supports them."""

from __future__ import annotations

import os


def prefer_huge_pages() -> None:
    """Let torch ask Linux for huge pages for every CPU tensor of at least 2 MiB.

    A new tensor is mapped page by page on first access. 100 MB of scores are 24,000 pages of 4 KiB, and mapping them
    costs more than filling them. A value that the environment already has is kept. torch reads the variable once, at
    its first allocation. It has no effect on other systems and on GPUs.
    """
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
