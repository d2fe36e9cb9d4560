"""More rows of METHODS (migrate-evo is the paper's, discover is not), and modifiers of any row."""
from runlog.errors import UserError


def by_origin(asks: list) -> dict:
    """{origin: ask}: modifiers tell rows apart by it. Raises UserError if two asks share one."""
    found = {ask.origin: ask for ask in asks}
    if len(found) < len(asks):
        origins = ", ".join(ask.origin for ask in asks)
        raise UserError(f"the asks have the origins {origins}: give each one of its own "
                        "(docs/forking.md)")
    return found
