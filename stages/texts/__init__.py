"""Files of texts, of whatever format, read once and in the order of their rows.

Gives ``TextFile``, a stream of rows for ``tag``; ``read_texts`` and ``read_labelled_texts``, whole
files for the other commands; and ``encode_texts``, texts as tokens.  Knows no model and no command.
Imports numpy alone; pyarrow comes in with a file that takes it.
"""

from stages.texts.labels import EncodedTexts, encode_texts, read_labelled_texts
from stages.texts.reading import TextFile, TextRow, read_texts
from stages.texts.rows import Row, make_jsonable
from stages.texts.source import is_read_once
