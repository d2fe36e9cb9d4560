"""Modules that are imported at their first use: they take seconds, and --help does without them."""
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
engine = lazy("engine")         # it imports transformers
