"""The error of a service that cannot start: `soul serve` prints its message as one line."""


class ServiceStartError(Exception):
    """The service cannot start; the message states the reason and the remedy."""
