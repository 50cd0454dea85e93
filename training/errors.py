"""The errors that training, bundles and the registry raise.

Every message gives the value, the rule and the remedy. `Mistake` is the caller's to mend (the command line exits
with 2), `Failure` is not (it exits with 1).
"""


class ShoalError(Exception):
    """Anything that Shoal refuses or fails to do, said in one line."""


class Mistake(ShoalError):
    """What was asked for cannot be: a name, a value or a file is wrong."""


class BundleError(Mistake):
    """A bundle that cannot be trusted or read; the message names the file."""


class Failure(ShoalError):
    """What was asked for was right and did not work."""
