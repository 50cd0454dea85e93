"""The errors that training, bundles and the registry raise.

Every message gives the value, the rule and the remedy. `Mistake` is the caller's to mend (the command line exits
with 2), `Failure` is not (it exits with 1).
"""

from pydantic import ValidationError


class ShoalError(Exception):
    """Anything that Shoal refuses or fails to do, said in one line."""


class UserError(ShoalError):
    """What was asked for cannot be: a name, a value or a file is wrong."""


class BundleError(UserError):
    """A bundle that cannot be trusted or read; the message names the file."""


class ServiceError(ShoalError):
    """What was asked for was right and did not work."""


def summarize_validation_error(error: ValidationError) -> str:
    """Say all that a validation found in one line: where, what, and the value."""
    problems = []
    for item in error.errors(include_url=False):
        where = ".".join(str(part) for part in item["loc"]) or "value"
        got = "" if item["type"] in ("missing", "extra_forbidden") else f" (got {item['input']!r:.80})"
        problems.append(f"{where}: {item['msg']}{got}")
    return "; ".join(problems)
