"""The published data sets that ``recbole-kd prepare`` knows by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Known:
    """A published data set; `published` counts are checked, `reported` ones only shown."""

    description: str
    form: str
    needs: str
    file: str | None = None
    attributes: str | None = None
    published: Mapping[str, int] = field(default_factory=dict)
    reported: str = ""


def _of_json(title: str, counts: str) -> Known:
    """Return a multi-modal data set in the layout of PromptMM and MMSSL."""
    return Known(
        f"{title}, multi-modal: published split, features of the items",
        form="json",
        needs="train.json, val.json, test.json, image_feat.npy, text_feat.npy",
        reported=f"The RCE-KD paper reports {counts}.",
    )


def _of_labels(title: str, file: str) -> Known:
    """Return a multi-modal data set in the layout of MMRec."""
    return Known(
        f"{title}, multi-modal: published split, features of the items",
        form="labelled",
        needs=f"{file}, image_feat.npy and text_feat.npy",
        file=file,
    )


KNOWN: dict[str, Known] = {
    "citeulike": Known(
        "CiteULike-t: users with 5 or more articles, split 8:1:1 in the order of its lists (by article id)",
        form="counted",
        needs="users.dat",
        file="users.dat",
        published={
            "users": 5_219,
            "items": 25_181,
            "interactions": 125_580,
            "train": 98_405,
            "valid": 12_451,
            "test": 14_724,
        },
    ),
    "gowalla": Known(
        "Gowalla: the LightGCN split, one ninth of train held out (or check-ins with --form=checkins)",
        form="lightgcn",
        needs="train.txt and test.txt",
        published={
            "users": 29_858,
            "items": 40_981,
            "interactions": 1_027_370,
            "trainall": 810_128,
            "test": 217_242,
        },
    ),
    "yelp2018": Known(
        "Yelp 2018: ratings of 4 and more, 10-core, split 8:1:1 by time",
        form="ratings",
        needs="yelp2018.txt",
        file="yelp2018.txt",
        reported="The RCE-KD paper reports 41,801 users, 26,512 items, 1,022,604 interactions.",
    ),
    "beauty": Known(
        "Amazon Beauty: 5-core sequences in time order, for leave-one-out",
        form="sequence",
        needs="Beauty.txt",
        file="Beauty.txt",
        attributes="Beauty_item2attributes.json",
        published={"users": 22_363, "items": 12_101, "interactions": 198_502},
    ),
    "netflix": _of_json("Netflix", "43,739 users, 17,239 items, 609,341 interactions"),
    "tiktok": _of_json("TikTok", "14,343 users, 8,690 items, 276,637 interactions"),
    "electronics": _of_json("Amazon Electronics", "41,691 users, 21,479 items, 359,165 interactions"),
    "baby": _of_labels("Amazon Baby", "baby.inter"),
    "sports": _of_labels("Amazon Sports", "sports.inter"),
    "clothing": _of_labels("Amazon Clothing", "clothing.inter"),
}

KNOWN_DATASETS: dict[str, str] = {name: known.description for name, known in KNOWN.items()}
"""Name -> one line."""
