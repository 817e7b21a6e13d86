"""Import paths of earlier versions, which lead to today's modules.

``from recbole_kd.vectors import vectors`` imports :mod:`recbole_kd.scoring.vector_models` on access and returns the
same module object. Modules that were never in the README are not listed here.
"""

OLD_PATHS = {
    "recbole_kd.build": "recbole_kd.training.build_distiller",
    "recbole_kd.compat": "recbole_kd.integration.compat",
    "recbole_kd.data.preparation": "recbole_kd.data.split_and_loaders",
    "recbole_kd.distiller.table": "recbole_kd.distiller.registry",
    "recbole_kd.loss": "recbole_kd.losses.cross_entropy",
    "recbole_kd.quick_start": "recbole_kd.pipeline.quick_start",
    "recbole_kd.register": "recbole_kd.integration.register",
    "recbole_kd.safe_load": "recbole_kd.integration.safe_load",
    "recbole_kd.scorer": "recbole_kd.scoring.scorer",
    "recbole_kd.trainer": "recbole_kd.training.trainer",
    "recbole_kd.vectors": "recbole_kd.scoring.vector_models",
}
"""Old path -> path of today."""
