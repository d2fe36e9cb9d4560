"""Imported first: Ctrl-C is one line and exit code 130 also while everything else is imported."""
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def quiet(kind: type, error: BaseException, trace) -> None:
    """sys.excepthook: Ctrl-C without a traceback. Python then ends with 130 by itself."""
    if issubclass(kind, KeyboardInterrupt):
        print("\nstopped", file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, trace)


# a program that imports this one keeps its own hook
if Path(getattr(sys.modules["__main__"], "__file__", None) or "/").resolve().is_relative_to(ROOT):
    sys.excepthook = quiet
