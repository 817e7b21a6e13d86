"""The table of methods, one line each.

Its names are known before a method, and with it PyTorch, is imported.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from recbole_kd.distiller.base import Distiller

DISTILLERS: dict[str, str | type[Distiller]] = {
    "RCEKD": "recbole_kd.distiller.rcekd:RCEKD",
    "CE": "recbole_kd.distiller.ce:CE",
    "FullCE": "recbole_kd.distiller.full_ce:FullCE",
    "CD": "recbole_kd.distiller.cd:CD",
    "RRD": "recbole_kd.distiller.rrd:RRD",
    "DCD": "recbole_kd.distiller.dcd:DCD",
    "HetComp": "recbole_kd.distiller.hetcomp:HetComp",
    "UnKD": "recbole_kd.distiller.unkd:UnKD",
    "RankDistil": "recbole_kd.distiller.rankdistil:RankDistil",
    "RD": "recbole_kd.distiller.rd:RD",
    "TARec": "recbole_kd.distiller.tarec:TARec",
    "PromptMM": "recbole_kd.distiller.promptmm:PromptMM",
    "DE": "recbole_kd.distiller.de:DE",
    "DERRD": "recbole_kd.distiller.derrd:DERRD",
    "FTD": "recbole_kd.distiller.ftd:FTD",
    "HTD": "recbole_kd.distiller.htd:HTD",
    "FreqD": "recbole_kd.distiller.freqd:FreqD",
    "PCKD": "recbole_kd.distiller.pckd:PCKD",
}
"""``--kd=`` name -> ``module:Class`` (imported on use) or the class itself.

An external method adds its own entry, or is named directly as ``--kd=module:Class``, which imports that module and so
runs its code."""

NO_METHOD = ("", "none", "null", "~", "no", "off", "false")
"""Names, in lower case, by which a user means that nothing is to be distilled."""
