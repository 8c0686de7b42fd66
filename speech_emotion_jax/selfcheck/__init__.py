"""One command that proves a chip: numbers against goldens and definitions, then speed and memory."""

from .run import SelfcheckConfig, SelfcheckReport, render_selfcheck, selfcheck, selfcheck_as_dict

__all__ = ["SelfcheckConfig", "SelfcheckReport", "render_selfcheck", "selfcheck", "selfcheck_as_dict"]
