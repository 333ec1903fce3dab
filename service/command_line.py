"""The command line of the service; `__main__.py` runs it."""

import asyncio
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import click
from click.core import ParameterSource
from pydantic import ByteSize, ValidationError

from . import __version__
from .app import run
from .databases import open_database
from .errors import ConfigurationError
from .logs import configure
from .settings import GROUPS, Settings, allowed, in_words
from .tasks.generate import tasks
from .web.relations import matches
from .workers import run_workers

EXIT_CONFIGURATION, EXIT_INTERRUPTED = 2, 130
_KINDS: dict[Any, str] = {ByteSize: "SIZE", float: "SECONDS", int: "NUMBER"}
_NAMED = {
    "host": "ADDRESS",
    "table": "PATTERN",
    "key": "VIEW=COLUMNS",
    "tokens": "FILE",
    "allow_origin": "ORIGIN",
}
_HELP = "--help lists every flag, its unit and its default"


def _settings_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """One flag and one environment variable for each setting."""
    for name, field in reversed(Settings.model_fields.items()):
        default = field.get_default()
        kind = "|".join(get_args(field.annotation)) if isinstance(default, str) else ""
        command = click.option(
            _flag(name),
            name,
            envvar=_variable(name),
            multiple=isinstance(default, tuple),
            default=None,
            metavar=kind or _KINDS.get(field.annotation) or _NAMED.get(name, "URL"),
            help=f"{field.description}  [default: {in_words(default)}]",
        )(command)
    return command


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _variable(name: str) -> str:
    return "WEIR_" + name.upper()


def _settings(context: click.Context, **more: str) -> Settings:
    """The settings of the command's flags and of its environment, and these that go before them."""
    given = context.params | more
    values = {name: value for name, value in given.items() if value not in (None, ())}
    try:
        return Settings.model_validate(values)
    except ValidationError as fault:
        first = fault.errors(include_url=False)[0]
        name = str(first["loc"][0])
        source = context.get_parameter_source(name)
        blamed = _flag(name) + " "
        if source is ParameterSource.ENVIRONMENT:
            blamed = _variable(name) + "="
        wrong = str(first["msg"]).removeprefix("Value error, ")
        if first["type"] != "value_error":
            wrong = f"it takes {allowed(name)}"
        raise ConfigurationError(f"{blamed}{first['input']!r}: {wrong}", hint=_HELP) from None


class _Commands(click.Group):
    """Lists its options in groups.

    Does not quote an address that was taken for a command: there may be a password in it.
    """

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        title = "Others"
        groups: dict[str, list[tuple[str, str]]] = {each: [] for each in (*GROUPS.values(), title)}
        for parameter in self.get_params(ctx):
            if record := parameter.get_help_record(ctx):
                name = str(parameter.name)
                title = GROUPS.get(name, title if name in Settings.model_fields else "Others")
                groups[title].append(record)
        for title, records in groups.items():
            with formatter.section(title):
                formatter.write_dl(records)
        self.format_commands(ctx, formatter)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if "://" in args[0]:
            raise ConfigurationError(
                "an address stands where a command could", hint="use --database ADDRESS"
            )
        return super().resolve_command(ctx, args)


@click.group(
    cls=_Commands, invoke_without_command=True, context_settings={"max_content_width": 100}
)
@click.version_option(__version__, package_name="tableweir")
@_settings_options
@click.pass_context
def main(context: click.Context, /, **given: Any) -> None:
    """Serve tasks as CSV and NDJSON, to any number of slow clients, in constant memory.

    Each flag is also an environment variable: --max-streams is WEIR_MAX_STREAMS. What may be
    given repeatedly stands there with spaces between. A SIZE is a number of bytes, or one with
    KiB, MiB or GiB.
    """
    if context.invoked_subcommand is None:
        settings = _settings(context)
        configure(settings.log_format)
        asyncio.run(run(settings) if settings.workers == 1 else run_workers(settings))


@main.command()
@click.option("--rows", type=click.IntRange(1, 1_000_000_000), default=1_000_000, show_default=True)
@click.option("--seed", type=int, default=1, show_default=True, help="same seed, same tasks")
@click.option("--database", default=None, help="where the tasks go")
@click.pass_context
def generate(context: click.Context, /, rows: int, seed: int, database: str | None) -> None:
    """Append made-up tasks, the same ones for the same seed."""
    assert context.parent is not None
    where = {"database": database} if database else {}
    asyncio.run(_generate(rows, seed, _settings(context.parent, **where)))


async def _generate(rows: int, seed: int, settings: Settings) -> None:
    configure(settings.log_format)
    database = await open_database(settings)
    try:
        if database.tasks is None:
            raise ConfigurationError(
                f"{settings.shown_database} is a database of another program, which is only read",
                hint="name a new file or an empty database with --database",
            )
        with click.progressbar(
            tasks(rows, seed),
            length=rows,
            label="generating tasks",
            file=sys.stderr,
            update_min_steps=max(1, rows // 200),
        ) as progress:
            await database.tasks.fill(progress)
    finally:
        await database.close()


@main.command("tables", short_help="List the tables of a database.")
@click.option("--database", default=None, help="whose tables")
@click.pass_context
def list_tables(context: click.Context, /, database: str | None) -> None:
    """List the tables of a database: their keys, and how each column is written."""
    assert context.parent is not None
    where = {"database": database} if database else {}
    asyncio.run(_list_tables(_settings(context.parent, **where)))


async def _list_tables(settings: Settings) -> None:
    configure(settings.log_format)
    path = Path(settings.database.removeprefix("sqlite:///"))
    if settings.database.startswith("sqlite:") and not await asyncio.to_thread(path.is_file):
        raise ConfigurationError(f"there is no file {path}", hint="name a database that is there")
    database = await open_database(settings)
    try:
        relations = await database.engine.relations()
    finally:
        await database.close()
    for address in sorted(relations):
        if not matches(address, settings.table or ("*",)):
            continue
        relation = relations[address]
        key = ", ".join(relation.key.columns) if relation.key else f"none: {relation.no_key}"
        click.echo(f"{address}  ({relation.kind}; key: {key})")
        for column in relation.columns:
            click.echo(f"    {column.name}  {column.type or 'any type'}  as {column.kind}")


def cli() -> None:
    """Run the command; what a user can mend is one line and a hint, never a traceback."""
    name = Path(sys.argv[0]).name if not sys.argv[0].endswith(".py") else "service"
    try:
        sys.exit(main(prog_name=name, standalone_mode=False))
    except click.Abort:
        sys.exit(EXIT_INTERRUPTED)
    except click.ClickException as error:
        _refuse(error.format_message(), _HELP)
    except ConfigurationError as error:
        _refuse(error.message, error.hint)


def _refuse(message: str, hint: str) -> None:
    click.echo(f"weir: {message}", err=True)
    if hint:
        click.echo(f"  hint: {hint}", err=True)
    sys.exit(EXIT_CONFIGURATION)
