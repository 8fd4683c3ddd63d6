"""From a large model to a small one: the teacher's answers become the student's training data.

Each step is that of a command (``extract``, ``convert``, ``train``, ``extract``, ``eval``,
``export``) and calls the same functions; its files are kept, and a run goes on where it ended.
"""
