"""Modules that are imported at their first use: they take seconds, and --help does without them."""
import importlib
import importlib.util
import sys


def lazy(name: str):
    """A module that is executed when one of its attributes is read for the first time."""
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.find_spec(name)
    if spec is None:
        raise ModuleNotFoundError(f"no module named {name}: pip install -r requirements.txt")
    spec.loader = importlib.util.LazyLoader(spec.loader)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


torch = lazy("torch")


class Later:
    """A module of this project that is imported when it is first used. It is not in sys.modules
    before: torch looks at all modules there while it is being imported, and must not begin to
    import what needs torch."""

    def __init__(self, name: str):
        self.name = name

    def __getattr__(self, attribute: str):
        return getattr(importlib.import_module(self.name), attribute)


engine = Later("engine")        # it imports transformers
