"""Estimate the memory and time of a run on chips that this machine does not have."""

from .run import PlanConfig, plan, render_plan

__all__ = ["PlanConfig", "plan", "render_plan"]
