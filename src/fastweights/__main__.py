"""``fastweights`` and ``python -m fastweights``."""

from __future__ import annotations

import importlib.util
import sys

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


if __name__ == "__main__":
    main()
