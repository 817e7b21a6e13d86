"""All that touches RecBole's modules and pickles."""

# RecBole first: its import runs recbole_kd._join_recbole, which needs the modules of this package whole
import recbole  # noqa: F401
