"""Limits that a child process puts on itself, and its own memory figures."""

import os
import re
import signal
import sys


def clear_noise() -> None:
    """Empties the file behind descriptor 2, which holds what the runtime prints."""
    try:
        os.ftruncate(2, 0)
        os.lseek(2, 0, os.SEEK_SET)
    except OSError:
        pass


def resident_bytes() -> int:
    """Memory in RAM now; also starts a new peak where Linux allows it."""
    try:
        with open("/proc/self/clear_refs", "w", encoding="ascii") as file:
            file.write("5")
    except OSError:
        pass
    return _status("VmRSS") or peak_bytes()


def peak_bytes() -> int:
    """The most memory this process had in RAM, since `resident_bytes` on Linux; 0 where unknown."""
    found = _status("VmHWM")
    if found:
        return found
    try:
        import resource
    except ImportError:
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _status(key: str) -> int:
    try:
        with open("/proc/self/status", encoding="ascii", errors="replace") as file:
            match = re.search(rf"^{key}:\s+(\d+) kB", file.read(), re.MULTILINE)
    except OSError:
        return 0
    return int(match.group(1)) * 1024 if match else 0


def set_alarm(seconds: int) -> None:
    """Ends this process after so many seconds unless set again; 0 clears it."""
    if hasattr(signal, "alarm"):
        signal.alarm(seconds)


def limit_address_space(limit_bytes: int | None) -> None:
    """Sets the soft limit, None lifts it; does nothing where the system has none."""
    try:
        import resource

        hard = resource.getrlimit(resource.RLIMIT_AS)[1]
        soft = limit_bytes if hard == resource.RLIM_INFINITY else min(limit_bytes or hard, hard)
        resource.setrlimit(resource.RLIMIT_AS, (soft or resource.RLIM_INFINITY, hard))
    except (ImportError, ValueError, OSError):
        pass


def bound_files() -> None:
    """No core dumps, and no endless log: both would fill the user's disk."""
    try:
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 24, 1 << 24))
    except (ImportError, ValueError, OSError):
        pass
