"""How programs end: with one line for a user's mistake or an interruption, with a traceback for a bug."""

import contextlib
import io
import os
import signal
import sys
import threading
from collections.abc import Iterator

from tramp_jax import __version__
from tramp_jax.errors import Interrupted, as_user_error

EXIT_ERROR, EXIT_INTERRUPTED = 1, 130
BUG = f"This is a bug in tramp_jax {__version__}. Please report it with the lines above; nothing has been sent."


@contextlib.contextmanager
def exit_codes() -> Iterator[None]:
    """Ends the program with one line and exit code 1 after a user's mistake, or 130 after an interruption.

    SIGTERM interrupts like SIGINT. Any other exception passes through, with a note below its traceback that asks the
    user to report it. Letters that the terminal or pipe cannot show are escaped.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        with _terminated_like_interrupted():
            yield
    except Interrupted as stopped:
        _end(str(stopped), EXIT_INTERRUPTED)
    except KeyboardInterrupt:
        _end("interrupted; to continue, run the same command again", EXIT_INTERRUPTED)
    except BrokenPipeError:  # the reader of our output has exited, as ``head`` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(EXIT_ERROR)
    except Exception as error:
        mistake = as_user_error(error)
        if mistake is None:
            error.add_note(BUG)
            raise
        _end(f"error: {mistake}", EXIT_ERROR)


@contextlib.contextmanager
def _terminated_like_interrupted() -> Iterator[None]:
    """Turns SIGTERM into KeyboardInterrupt, unless something else handles or ignores it."""
    main = threading.current_thread() is threading.main_thread()  # only the main thread may change signals
    if not main or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _end(message: str, code: int) -> None:
    sys.stderr.write(f"{message}\n")
    sys.exit(code)
