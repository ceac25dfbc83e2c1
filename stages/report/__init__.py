"""Tables and figures of what the stages wrote, as one page.

Gives ``collect`` and ``write_report``.  Reads records and evaluations; computes nothing anew.
The page, the Markdown, their texts and their looks are the files beside this one.
"""

from stages.report.collect import Findings, collect
from stages.report.runs import Run
from stages.report.write import write_report
