"""More rows of METHODS (migrate-evo is the paper's, discover is not), and modifiers of any row."""
from runlog.errors import UserError


def by_origin(asks: list) -> dict:
    """{origin: ask}: modifiers tell rows apart by it. Raises UserError if two asks share one."""
    found = {ask.origin: ask for ask in asks}
    if len(found) < len(asks):
        raise UserError(f"two asks have the origin {asks[0].origin!r}: give each another one "
                        "(docs/forking.md)")
    return found
