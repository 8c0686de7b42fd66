"""Export a checkpoint as programs that run without this package."""

from .run import ExportConfig, export, render_export

__all__ = ["ExportConfig", "export", "render_export"]
