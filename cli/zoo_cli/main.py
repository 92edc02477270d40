"""The program `zoo`: a lazy group of commands, and the one place where errors become messages and exit codes."""

from __future__ import annotations

import atexit
import io
import os
import re
import sys
import time
import warnings
from typing import Any, NoReturn

import click

import zoo
from zoo.errors import PluginWarning, UsageError, ZooError, ZooWarning, did_you_mean
from zoo.plugin import Plugins
from zoo.system.garbage import collect_seldom
from zoo.system.ranks import launched, leads
from zoo.system.stdout import expendable
from zoo.target import load_target

# What `backbone-zoo-serve` runs by itself
WITHOUT_TORCH = ("predict", "verify", "inspect", "serve", "bench", "list", "cache", "plugins")


def plugins(ctx: click.Context) -> Plugins:
    """The plugins of this invocation, loaded once."""
    root = ctx.find_root()
    if not isinstance(root.obj, Plugins):
        root.obj = Plugins()
    return root.obj


def _is_whole(plugins: Plugins) -> bool:
    """Whether `backbone-zoo` is installed, and not only the distribution without torch that it requires."""
    return any(plugin.distribution == "backbone-zoo" for plugin in plugins.plugins)


class _ReaderGone(Exception):
    """What a command prints is read no more, as with `| head`."""


class LazyGroup(click.Group):
    """Commands from the plugins' catalogue: listing them imports none of them, running one imports it."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [entry.name for entry in plugins(ctx).commands]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        catalogue = plugins(ctx).commands
        if cmd_name not in catalogue:
            return None
        entry = catalogue.find(cmd_name)
        if launched() and entry.provider == "cli" and cmd_name != "train":
            raise UsageError(
                f"`zoo {cmd_name}` runs in one process, and torchrun has started this one", hint="leave torchrun out"
            )
        if entry.provider == "cli" and cmd_name not in WITHOUT_TORCH and not _is_whole(plugins(ctx)):
            raise ZooError(
                f"`zoo {cmd_name}` needs `backbone-zoo`, but only `backbone-zoo-serve` is installed",
                hint="`pip install backbone-zoo` installs it, and torch",
            )
        try:
            command: Any = load_target(entry.value.target)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # a plugin may raise anything
            if entry.provider == "cli":
                raise
            raise ZooError(f"command `{cmd_name}` of plugin `{entry.provider}` failed to load: {error}") from error
        assert isinstance(command, click.Command)
        from zoo_cli.options import with_data_on_stdout  # not at the top: help needs no options

        return with_data_on_stdout(command) if entry.provider == "cli" else command

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError as error:  # click would call `sys.exit`, as only a plugin does
            raise _ReaderGone from error

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        rows = [(entry.name, entry.value.summary) for entry in plugins(ctx).commands]
        with formatter.section("Commands"):
            formatter.write_dl(rows)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and not args[0].startswith("-") and args[0] not in plugins(ctx).commands:
            names = self.list_commands(ctx)
            raise UsageError(f"unknown command `{args[0]}`", hint=did_you_mean(args[0], names, "see `zoo --help`"))
        return super().resolve_command(ctx, args)


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(zoo.__version__, prog_name="zoo")
def program() -> None:
    """Fine-tune image classifiers, compare them, and export the best one as a verified ONNX file.

    \b
    zoo train --data photos --backbone efficientnet_lite0 --strategy partial:2 --out runs/first
    zoo export runs/first
    zoo predict runs/first/model.onnx holiday/*.jpg
    """


def main(arguments: list[str] | None = None) -> None:
    """Run the program and exit with 0 (success), 1 (failure), 2 (wrong usage) or 130 (interrupted)."""
    collect_seldom()
    open_streams()
    leave(run(arguments))


def open_streams() -> None:
    """Open what a scheduler has closed of stdin, stdout and stderr; file names on stdout are written byte by byte.

    Python has None for a closed stream. Its descriptor would go to the next file that is opened, such as a checkpoint,
    and what a C library prints would go into it.
    """
    for number, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free, which is this one
            os.set_inheritable(number, True)  # else it is closed in the processes that are started
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(number, mode, closefd=False, errors="replace"))
    sys.stderr = expendable(sys.stderr)
    if isinstance(sys.stdout, io.TextIOWrapper):
        utf_8 = sys.stdout.encoding.lower() == "utf-8"
        sys.stdout.reconfigure(errors="surrogateescape" if utf_8 else "backslashreplace")


def leave(code: int) -> NoReturn:
    """Exit without destroying torch's objects, which takes 1.2 seconds; mypy does so for the same reason."""
    atexit._run_exitfuncs()
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except OSError:
        code = code or 1
    os._exit(code)


def run(arguments: list[str] | None = None) -> int:
    """Run the program and return the exit code; a mistake of the user becomes a message and a hint on stderr."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore" if not sys.warnoptions else "default")
        warnings.simplefilter("always", ZooWarning)
        warnings.showwarning = _show_warning  # type: ignore[assignment]
        try:
            code = program.main(args=arguments, prog_name="zoo", standalone_mode=False)
            return code if isinstance(code, int) else 0  # from `ctx.exit`
        except click.exceptions.Exit as stop:
            return stop.exit_code
        except (KeyboardInterrupt, click.exceptions.Abort) as stop:
            if not leads():  # rank 0 says it
                return 130
            click.echo("\ninterrupted", err=True)
            # click raises its own exception from the interrupt, whose notes say how to go on
            for note in getattr(stop.__cause__ or stop, "__notes__", ()):
                click.echo(f"\n{click.style('hint', fg='cyan', bold=True)}: {note}", err=True, color=_color())
            return 130
        except ZooError as error:
            _say("Error", error.message, error.hint)
            return error.exit_code
        except SystemExit as error:  # zoo never raises it here
            _say("Error", f"a plugin ended the program with `sys.exit({error.code!r})`", "see `zoo plugins`")
            return 1
        except click.exceptions.NoArgsIsHelpError as error:
            click.echo(error.format_message())
            return error.exit_code
        except click.ClickException as error:
            _say("Error", message_of(error), _hint_of(error))
            return error.exit_code
        except (_ReaderGone, BrokenPipeError):
            # The reader of stdout is gone, as with `| head`. Without this, Python prints another error when it exits
            _discard_stdout()
            return 1
        except UnicodeEncodeError as error:
            # A path that is no text came where only text can be written, such as a report
            if not any("\ud800" <= letter <= "\udfff" for letter in error.object):
                raise
            text = error.object if len(error.object) < 200 else error.object[max(error.start - 80, 0) : error.end + 20]
            _say("Error", f"a path is not valid UTF-8: {text!a}", "rename the file or folder")
            return 1
        except OSError as error:
            # A full disk, a name too long: errors of the system about a path that we did not check before
            if error.strerror is None:
                raise
            try:
                sys.stdout.flush()
            except OSError:  # stdout itself is full; without this, Python prints another error when it exits
                _discard_stdout()
            where = f"`{os.fsdecode(error.filename)}`: " if isinstance(error.filename, (str, bytes)) else ""
            _say("Error", f"{where}{error.strerror[:1].lower()}{error.strerror[1:]}", None)
            return 1


def _discard_stdout() -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _say(kind: str, message: str, hint: str | None) -> None:
    if not leads():
        _let_rank_0_say_it()
        message = f"rank {os.environ['RANK']}: {message}"
    click.echo(f"{click.style(kind, fg='red', bold=True)}: {message}", err=True, color=_color())
    if hint:
        click.echo(f"\n{click.style('hint', fg='cyan', bold=True)}: {hint}", err=True, color=_color())


def _let_rank_0_say_it() -> None:
    """Wait: rank 0 may have the same to say, and torchrun ends all ranks as soon as one has ended with an error."""
    try:
        time.sleep(5)
    except KeyboardInterrupt:
        os._exit(130)


def _color() -> bool | None:
    return False if "NO_COLOR" in os.environ else None


_named: set[str] = set()


def _show_warning(message: Warning | str, category: type[Warning], *_: Any) -> None:
    if not issubclass(category, ZooWarning):
        click.echo(f"{category.__name__}: {message}", err=True)
        return
    click.echo(f"{click.style('warning', fg='yellow', bold=True)}: {message}", err=True, color=_color())
    if not issubclass(category, PluginWarning):
        return
    name = str(message).split("`")[1]
    if name not in _named:
        click.echo(f"hint: run `zoo plugins` for details, or set ZOO_DISABLE_PLUGINS={name}\n", err=True)
    _named.add(name)


# Replacements for click's wording
_WORDING = (
    (r"is not a valid integer( range)?", "is not a whole number"),
    (r"is not a valid float( range)?", "is not a number"),
    (r"(\S+) is not in the range x>=(\S+?)\.?$", r"`\1` is less than \2"),
)


def message_of(error: click.ClickException) -> str:
    """The message on one line, without click's own suggestion, which goes into the hint."""
    text = error.message if isinstance(error, click.NoSuchOption) else error.format_message()
    text = " ".join(text.split())
    for theirs, ours in _WORDING:
        text = re.sub(theirs, ours, text)
    text = re.sub(r"(?<!\w)'([^']*)'(?!\w)", r"`\1`", text)  # but not the apostrophe of a name
    return (text[:1].lower() + text[1:]).rstrip(".")


def _hint_of(error: click.ClickException) -> str | None:
    if isinstance(error, click.NoSuchOption) and error.possibilities:
        path = error.ctx.command_path if error.ctx else "zoo"
        return did_you_mean(error.option_name, error.possibilities, f"see `{path} --help`")
    ctx = getattr(error, "ctx", None)
    return f"see `{ctx.command_path} --help`" if ctx is not None else None


if __name__ == "__main__":
    main()
