"""Modules that are imported at their first use: they take seconds, and --help does without them."""
import contextlib
import importlib
import signal
import threading


class Later:
    """A module that is imported when it is first used. Until then it is not in sys.modules: there
    other libraries would find it, and begin to import it."""

    def __init__(self, name: str):
        self.name, self.module = name, None

    def __getattr__(self, attribute: str):
        if self.module is None:
            with interrupts_wait():
                self.module = importlib.import_module(self.name)
        return getattr(self.module, attribute)


@contextlib.contextmanager
def interrupts_wait():
    """Ctrl-C takes effect at the end of the block. Some libraries catch it while they are being
    imported, and go on with half of themselves."""
    if threading.current_thread() is not threading.main_thread():
        yield                       # only the main thread gets signals
        return
    pressed = []
    before = signal.signal(signal.SIGINT, lambda *_: pressed.append(True))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if pressed:
        raise KeyboardInterrupt


torch = Later("torch")
engine = Later("engine")            # it imports transformers
