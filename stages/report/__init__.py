"""Tables and figures of what the stages wrote, as one page.

Gives ``collect`` and ``write_report``.  Reads records, evaluations and caches; computes nothing
anew.
"""

from stages.report.collect import collect
from stages.report.commands import format_teacher_command
from stages.report.files import write_report

__all__ = ["collect", "format_teacher_command", "write_report"]
