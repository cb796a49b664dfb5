"""``fastweights`` and ``python -m fastweights``."""

from __future__ import annotations

import importlib.util
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["main"]

LAB = ("jinja2", "matplotlib", "pydantic", "rich", "safetensors", "scipy", "typer")


def main() -> None:
    """Run the command line, or say what to install for it."""
    missing = [name for name in LAB if importlib.util.find_spec(name) is None]
    if missing:
        print(
            f"The command needs the laboratory's libraries ({', '.join(missing)} not found):\n"
            '  pip install "fastweights[lab]"',
            file=sys.stderr,
        )
        raise SystemExit(2)
    try:
        with _ctrl_c_ends_at_once():
            from fastweights.cli import app
            from fastweights.files import printable
            from fastweights.training.config import ConfigError

        try:
            app(prog_name="fastweights")
        except ConfigError as error:
            print(printable(f"Error: {error}"), file=sys.stderr)
            raise SystemExit(2) from None
        except OSError as error:  # a full disk, a folder that may not be written
            print(printable(f"Error: {error}"), file=sys.stderr)
            raise SystemExit(1) from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None


@contextmanager
def _ctrl_c_ends_at_once() -> Iterator[None]:
    """While modules are imported nothing can be lost, and some would keep the interrupt back."""
    handler = signal.getsignal(signal.SIGINT)
    here = threading.current_thread() is threading.main_thread()
    if not here or handler is not signal.default_int_handler:
        yield
        return
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)


if __name__ == "__main__":
    main()
