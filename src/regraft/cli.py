"""The command line: each command is a Python function, its options are that function's settings."""

from __future__ import annotations

import dataclasses
import inspect
import json
import os
import signal
import sys
import warnings
from collections.abc import Callable, Sequence
from typing import Annotated, Any, NoReturn

import typer
import typer.core

from regraft import __version__, api
from regraft.errors import RegraftError
from regraft.progress import Lines
from regraft.settings import Declared, declared

#: Commands that are spelled in two words too, beside a command that takes a name where the second word stands.
SPELLINGS = {("backbones", "fetch"): "fetch"}


class _Commands(typer.core.TyperGroup):
    """The commands, by either spelling."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        known = SPELLINGS.get((args[0], args[1])) if len(args) > 1 else None
        return super().resolve_command(ctx, args if known is None else [known, *args[2:]])


app = typer.Typer(name="regraft", cls=_Commands, no_args_is_help=True, add_completion=False, rich_markup_mode=None,
                  pretty_exceptions_enable=False, context_settings={"help_option_names": ["-h", "--help"]})

COMMANDS: dict[str, Callable[..., Any]] = {
    "train": api.train, "inspect": api.inspect, "rank": api.rank, "advise": api.advise,
    "evaluate": api.evaluate, "predict": api.predict, "compare": api.compare, "update": api.update,
    "runs": api.list_runs, "features": api.features,
    "export": api.export, "report": api.write_report, "serve": api.serve,
    "verify": api.verify, "bundle": api.bundle,
    "backbones": api.backbones, "fetch": api.fetch, "store": api.store,
    "doctor": api.doctor, "demo": api.demo, "recipes": api.recipes,
    "plan": api.plan, "settings": api.explain,
}


@app.callback(invoke_without_command=True)
def _regraft(version: Annotated[bool, typer.Option("--version", help="Print the version.", is_eager=True)] = False,
             ) -> None:
    """Transfer learning on images: a folder of labelled images to an honest classifier, in minutes."""
    if version:
        typer.echo(f"regraft {__version__}")
        raise typer.Exit


def _command(function: Callable[..., Any]) -> Callable[..., None]:
    """A typer command that calls the function and prints its result."""
    settings = [item for item in declared(function.settings)  # type: ignore[attr-defined]
                if not item.setting.python_only]

    def run(*, json_document: bool, **values: Any) -> None:
        try:
            result = function(**{item.name: values[item.name] for item in settings})
        except KeyboardInterrupt as stop:  # caught here: typer would end the process without a word
            Lines().say("stopped; what was computed so far is kept, and the same command goes on from there")
            raise typer.Exit(128 + (signal.SIGTERM if isinstance(stop, _Terminated) else signal.SIGINT)) from None
        _print(json.dumps(result.to_dict(), indent=2, ensure_ascii=False) if json_document else repr(result))
        if code := getattr(result, "exit_code", 1 if getattr(result, "errors", ()) else 0):
            raise typer.Exit(code)

    flag = typer.Option("--json", help="Print one JSON document on standard output.")
    parameters = [*map(_parameter, settings), inspect.Parameter(
        "json_document", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=Annotated[bool, flag])]
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__doc__ = inspect.cleandoc(function.__doc__ or "").partition("\n\n")[0]
    return run


def _parameter(item: Declared) -> inspect.Parameter:
    """One setting as a typer argument or option."""
    setting = item.setting
    help_ = setting.help + (f" [{setting.range}]" if setting.gt is not None or setting.lt is not None else "")
    limits: dict[str, Any] = {}
    kinds = [kind for kind in item.kinds if kind is not type(None)]
    if item.repeatable:
        annotation: Any = list[str]
    elif item.choices:
        annotation = item.type
    elif kinds[0] in (bool, int, float):
        annotation = kinds[0]
        if kinds[0] is not bool:
            limits = {"min": setting.ge, "max": setting.le}
    else:
        annotation = str
    if item.default is None:
        annotation = annotation | None
    if setting.positional:
        info: Any = typer.Argument(help=help_, metavar=setting.metavar)
    else:
        info = typer.Option(item.option, help=help_, metavar=setting.metavar, **limits)
    default = inspect.Parameter.empty if item.default is dataclasses.MISSING else item.default
    return inspect.Parameter(item.name, inspect.Parameter.KEYWORD_ONLY, default=default,
                             annotation=Annotated[annotation, info])


for _name, _function in COMMANDS.items():
    app.command(_name)(_command(_function))


def _print(text: str) -> None:
    """Write to standard output whatever names hold: bytes that are no text come out as they went in."""
    sys.stdout.buffer.write(text.encode("utf-8", "surrogateescape") + b"\n")
    sys.stdout.buffer.flush()


class _Terminated(KeyboardInterrupt):
    """SIGTERM, which is to end a command as gently as Ctrl-C does."""


def _terminate(*_: object) -> NoReturn:
    raise _Terminated


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command; exit code 0, 1 (failed), 2 (the call is wrong), 3 (not promoted), 130 and 143 (told to stop)."""
    # Pillow warns of oddities in single files; what matters of them is counted and listed.
    warnings.filterwarnings("ignore", module=r"PIL\.")
    signal.signal(signal.SIGTERM, _terminate)
    try:
        app(args=None if arguments is None else list(arguments), prog_name="regraft")
    except RegraftError as error:
        Lines().say(f"error: {error}")
        sys.exit(error.exit_code)
    except BrokenPipeError:
        # Whoever read our output has gone; Python must not complain about it at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


if __name__ == "__main__":
    main()
