"""Large tensors in huge pages, where the system gives them out."""

from __future__ import annotations

import os


def prefer_huge_pages() -> None:
    """Let torch ask Linux for huge pages for every CPU tensor of 2 MiB and more; what the environment says of it stays as it is.

    A fresh tensor is handed out page by page at its first touch: 100 MB of scores are 24,000 pages of 4 KiB, which
        costs more than to fill
    them. torch reads the variable at its first allocation and never again; elsewhere than on Linux, and on GPUs, it
    means nothing.
    """
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
