"""A lock on an open file, which the system gives back when the last process with that file ends.

So it says of a file, without an answer of anybody's, that who wrote it lives. It belongs to the
open file, not to a process: a successor that is handed the descriptor has the lock too, and a start
in place keeps it. A POSIX record lock would end with any close() of that file in the process, as
when the program reads its own pid file.

On Linux it is an open file description lock for writing (F_OFD_SETLK): unlike one of flock(2) it
needs a file that is open for writing, so nobody who may only read the file can pretend to own it,
and looking whether there is one takes nothing. Elsewhere it is flock(2)'s.
"""

from __future__ import annotations

import errno
import struct
import sys

TYPE_CHECKING = False  # true for checkers: typing takes long to import
if TYPE_CHECKING:
    from typing import Optional

_LAYOUT = "hhqqi"  # of Linux's struct flock: type, whence, start, length, pid
_TAKEN = (errno.EAGAIN, errno.EACCES)


def acquire(descriptor: int) -> Optional[bool]:
    """Whether this open file has the lock now, or another one has; None: there is none to be had.

    That is so where the file system or the platform has none, or where somebody who may only read
    the file keeps it from being locked. The file is open for reading and writing. Never waits. True
    again where this one has it already.
    """
    try:
        import fcntl  # late: not every system has it

        if sys.platform == "linux":
            whole = struct.pack(_LAYOUT, fcntl.F_WRLCK, 0, 0, 0, 0)
            fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, whole)
        else:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return False if error.errno in _TAKEN and is_held(descriptor) else None
    except (ImportError, AttributeError):
        return None
    return True


def is_held(descriptor: int) -> Optional[bool]:
    """Whether another open file has the lock of this file; None: that cannot be known.

    This one, open for reading, has none.
    """
    try:
        import fcntl

        if sys.platform == "linux":
            # A lock for reading stands in nobody's way but that of one for writing.
            asked = struct.pack(_LAYOUT, fcntl.F_RDLCK, 0, 0, 0, 0)
            found = fcntl.fcntl(descriptor, fcntl.F_OFD_GETLK, asked)
            return bool(struct.unpack(_LAYOUT, found)[0] != fcntl.F_UNLCK)
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        fcntl.flock(descriptor, fcntl.LOCK_UN)
    except OSError as error:
        return True if error.errno in _TAKEN else None
    except (ImportError, AttributeError):
        return None
    return False
