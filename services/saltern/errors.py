"""The one error that ends a command: a sentence for the person who typed it."""


class SalternError(Exception):
    """What went wrong, where, and what would be right, in one line.

    The command line prints it and exits with status 1; anything else that escapes is a defect and shows its
    traceback.
    """
