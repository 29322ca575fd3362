"""What stops the embedded service from starting: one clear line each, never a traceback."""


class ServiceStartError(Exception):
    """The service cannot start here; the message says why and what to do."""
