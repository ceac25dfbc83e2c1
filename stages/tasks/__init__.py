"""What is asked of a language model: the task, the prompt around an input, the label words.

Gives ``Task``, its frame (the tokens around every input) and its verbaliser.  The bundled tasks
are the YAML files in this folder.  Knows tokenizers, no models; imports no other room.
"""

from stages.tasks.frame import (
    NO_SUFFIX,
    Frame,
    describe_chat,
    describe_frame,
    fit_tokenizer,
    frame_task,
    frame_writing,
)
from stages.tasks.shares import AUTO, BALANCED, NONE, parse_shares
from stages.tasks.task import SCORES, Label, Task, list_tasks, load_task, parse_task, restore_task
from stages.tasks.variants import load_variants
from stages.tasks.verbaliser import Verbaliser, build_verbaliser
from stages.tasks.word_trie import ROOT, Question, Tree, grow_tree
from stages.tasks.writing import PLACE
