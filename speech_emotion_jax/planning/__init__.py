"""Memory and time of a run on chips that are not there."""

from .run import PlanConfig, plan, render_plan

__all__ = ["PlanConfig", "plan", "render_plan"]
