"""Every error that endless_py raises of its own."""


class EndlessError(Exception):
    """Base of the errors below."""


class UnsupportedPlatform(EndlessError, OSError):
    """The operating system lacks something that a reload needs; the message names it."""


class ChannelError(EndlessError):
    """The peer of a channel said something that is not of the protocol."""


class ChannelClosed(EndlessError):
    """The other end of the channel is gone."""


class HealthError(EndlessError, OSError):
    """Health checks cannot be answered at the address that is set; the message says why."""


class PidFileError(EndlessError, OSError):
    """A pid file that cannot be read, written or trusted; the message says why."""
